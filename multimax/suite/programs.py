"""Where ``train.py``, ``evaluate.py``, ``generate.py`` and a wheel's console scripts start.

The suite needs more than torch; a line says so where it is not installed.
"""

import sys
from importlib import import_module


def train() -> None:
    _start("train")


def evaluate() -> None:
    _start("evaluate")


def generate() -> None:
    _start("generate")


def _start(program: str) -> None:
    try:
        cli = import_module("multimax.suite.cli")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("multimax"):
            raise
        print(f"error: {error.name} is not installed: training needs the extra multimax[train]", file=sys.stderr)
        sys.exit(2)
    getattr(cli, program)()
