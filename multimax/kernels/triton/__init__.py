"""The kernels of GPUs: Triton. Nothing here is imported before a call needs it."""
