"""The kernels of the CPU: C++, compiled at its first use and kept."""
