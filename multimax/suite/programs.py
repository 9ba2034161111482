"""Where ``train.py``, ``evaluate.py``, ``generate.py`` and a wheel's console scripts start.

If a package that the suite needs beside torch is missing, one line says so.
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
        from multimax.suite.errors import install

        print(f"error: {error.name} is not installed, which training needs: {install('train')}", file=sys.stderr)
        sys.exit(2)
    getattr(cli, program)()
