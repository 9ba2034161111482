"""Models trained in fairseq as runs of this suite, and weights in both directions: python -m multimax.suite.fairseq"""
