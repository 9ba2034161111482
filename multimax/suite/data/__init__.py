"""The data of every task: where examples come from, how they are augmented, and the order of training on them."""
