"""python -m multimax.suite.fairseq CHECKPOINT DATA RUN"""

from pathlib import Path

from multimax.suite.errors import Parser, one_line_errors
from multimax.suite.fairseq.convert import convert


@one_line_errors
def main() -> None:
    """Make a run folder, which evaluate.py scores and translates with, of a checkpoint of fairseq."""
    parser = Parser(prog="python -m multimax.suite.fairseq", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, help="of fairseq's transformer or of multimax_transformer")
    parser.add_argument("data", type=Path, help="folder of fairseq-preprocess that it was trained on")
    parser.add_argument("run", type=Path, help="run folder to make")
    arguments = parser.parse_args()
    convert(arguments.checkpoint, arguments.data, arguments.run)


if __name__ == "__main__":
    main()
