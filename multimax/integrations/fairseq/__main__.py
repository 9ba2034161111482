"""``python -m multimax.integrations.fairseq`` prints what to give to ``--user-dir``, or converts a checkpoint."""

import argparse
import importlib.util
import sys
from pathlib import Path

from multimax.integrations.fairseq import INSTALL, USER_DIR


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m multimax.integrations.fairseq", description=__doc__)
    command = parser.add_subparsers(dest="command").add_parser(
        "convert", help="make a run folder for evaluate.py of a fairseq checkpoint"
    )
    command.add_argument("checkpoint", type=Path, help="of fairseq's transformer or of multimax_transformer")
    command.add_argument("data", type=Path, help="folder of fairseq-preprocess that it was trained on")
    command.add_argument("run", type=Path, help="run folder to make")
    arguments = parser.parse_args()
    if arguments.command == "convert":
        from multimax.integrations.fairseq.convert import convert
        from multimax.suite.errors import one_line_errors

        one_line_errors(lambda: convert(arguments.checkpoint, arguments.data, arguments.run))()
        return
    print(USER_DIR)
    if importlib.util.find_spec("fairseq") is None:
        print(f"note: {INSTALL}", file=sys.stderr)


main()
