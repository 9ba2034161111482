"""The one training loop, and what it stands on: optimiser, checkpoints, run folders, processes, console."""
