"""The table of all registered functions and their traits."""

from multimax import reweight
from multimax.suite.report.outputs import Output, Row, table

COLUMNS = ("function", "sums to one", "exact zeros", "needs the length", "parameters", "loss", "kernel", "options")


def function_table() -> Output:
    """One row for each function of the registry."""
    text = """# The functions

Made by `python -m multimax.suite.report` from the registry: the traits of `multimax.reweight.traits`, whether a
function has a loss and so can stand at the output, whether it has a kernel, and its options with their defaults; each
takes a `modulator` besides.

"""
    return table("functions", text, COLUMNS, [_row(name) for name in reweight.available()])


def _row(name: str) -> Row:
    traits, module = reweight.traits(name), reweight.create(name)
    defaults = {option: value for option, value in reweight.options(name).items() if option != "modulator"}
    options = ", ".join(f"{option}={value}" for option, value in defaults.items())
    said = (*traits, module.has_loss, module.row_kernel() is not None)
    return dict(zip(COLUMNS, (name, *("yes" if holds else "" for holds in said), options), strict=True))
