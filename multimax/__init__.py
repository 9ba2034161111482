"""MultiMax: alternatives to softmax for attention and classifiers, and the suite that reproduces the paper."""
