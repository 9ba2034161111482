"""The runs of the plan, one CSV for each entry: ``python -m multimax.suite.planned --help``."""
