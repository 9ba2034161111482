"""The experiments of the paper: what is trained, on which data, what is recorded and what it shows."""
