"""The CPU kernels: C++, compiled on first use and cached."""
