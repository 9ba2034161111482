"""What was trained in fairseq as runs of this suite, and weights both ways: python -m multimax.suite.fairseq --help"""
