"""The models of the suite, each with the two sites at which a reweighting acts, attention and output."""
