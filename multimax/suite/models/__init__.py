"""The suite's models, each with two sites where a reweighting acts: attention and output."""
