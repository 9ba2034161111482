"""Where ``train.py``, ``evaluate.py``, ``generate.py`` and a wheel's console scripts start.

If a package that the suite needs beside torch is missing, one line says so.
"""

import sys
from functools import partial
from importlib import import_module


def start(program: str) -> None:
    try:
        cli = import_module("multimax.suite.cli")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("multimax"):
            raise
        from multimax.suite.errors import install

        print(f"error: {error.name} is not installed, which training needs: {install('train')}", file=sys.stderr)
        sys.exit(2)
    getattr(cli, program)()


train, evaluate, generate = (partial(start, name) for name in ("train", "evaluate", "generate"))
