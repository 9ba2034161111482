"""The training loop and what it builds on: optimiser, checkpoints, run folders, processes, console."""
