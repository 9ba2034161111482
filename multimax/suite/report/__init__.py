"""Finished runs as records under ``results/``, and tables made from them: python -m multimax.suite.report --help"""
