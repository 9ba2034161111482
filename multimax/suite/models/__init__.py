"""The models of the suite. Each takes the two sites at which a reweighting acts, attention and output."""
