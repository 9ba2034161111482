"""Data of every task: where examples come from, how they are augmented, and in which order they are trained on."""
