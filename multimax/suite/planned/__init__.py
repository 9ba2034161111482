"""The runs of the plan, an entry's in one CSV: ``python -m multimax.suite.planned --help``."""
