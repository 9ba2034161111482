"""Finished runs as records under ``results/``, and tables made from the records: python -m multimax.report --help"""
