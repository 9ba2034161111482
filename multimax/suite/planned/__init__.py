"""The plan's runs, one CSV per entry: ``python -m multimax.suite.planned --help``."""
