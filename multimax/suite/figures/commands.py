"""Shared by the commands of ``python -m multimax.suite.figures``.

They read runs, and write numbers and figures.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from multimax.suite.cli import add_checkpoint_options
from multimax.suite.engine.open import OpenRun
from multimax.suite.engine.provenance import revision
from multimax.suite.errors import Parser, UserError
from multimax.suite.figures.files import figure_files
from multimax.suite.figures.panels import draw_maps
from multimax.suite.files import write_atomic, writing
from multimax.suite.identity import reweight_label
from multimax.suite.runs import Run
from multimax.suite.text_tables import Row

Draw = Callable[[Mapping[str, Any]], tuple[Figure, Sequence[Row]] | None]
"""Takes what was found in each run, by the run's label, and returns a figure and the rows it shows.

Returns None if there is nothing to draw.
"""


def keep(run: OpenRun, kind: str, found: Mapping[str, Any]) -> None:
    """Write ``found`` to RUN/analysis/KIND.json, which becomes part of the run's record."""
    about = {"checkpoint": run.names, "revision": revision()}
    folder = made(run.path / "analysis")
    write_atomic(folder / f"{kind}.json", json.dumps(about | dict(found), separators=(",", ":")) + "\n")


def runs_parser(command: Callable[[Sequence[str]], None]) -> argparse.ArgumentParser:
    """A parser with the options of a command that reads one or more runs."""
    parser = Parser(prog=f"python -m multimax.suite.figures {command.__name__}", description=command.__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders; KEY=VALUE among them, such as data.root=PATH, is for all"
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="where the pictures that compare several runs go; default: RUN/analysis of the first",
    )
    add_checkpoint_options(parser)
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse ``arguments`` into ``runs`` and ``overrides``. Raises UserError if no run is named."""
    parsed = parser.parse_intermixed_args(arguments)
    parsed.overrides = [item for item in parsed.runs if "=" in item and not Path(item).is_dir()]
    parsed.runs = [Path(item) for item in parsed.runs if item not in parsed.overrides]
    if not parsed.runs:
        raise UserError("no run folder is named: python -m multimax.suite.figures COMMAND RUN")
    return parsed


def open_runs(arguments: argparse.Namespace, needs: str | None = None) -> Iterator[OpenRun]:
    """Check the configuration of every run, then open the runs one after the other.

    Raises UserError as ``OpenRun`` does.
    """
    runs = [
        OpenRun(Run(path), arguments.overrides, arguments.checkpoint, arguments.ema, needs) for path in arguments.runs
    ]
    for run in runs:
        _ = run.config
    while runs:
        yield runs.pop(0)  # popped, so that nothing here keeps its model in memory


def chosen(given: str | None, option: str, what: str, count: int, run: OpenRun) -> list[int]:
    """The indices in a comma-separated option; all of ``range(count)`` if it is not given.

    Raises UserError for anything that is not an index below ``count``.
    """
    if given is None:
        return list(range(count))
    if not all(number.strip().isdecimal() and int(number) < count for number in given.split(",")):
        raise UserError(f"{option} {given}: {run.path} has {what} 0 to {count - 1}")
    return [int(number) for number in given.split(",")]


def compare(
    arguments: argparse.Namespace,
    needs: str | None,
    kind: str,
    find: Callable[[OpenRun], Mapping[str, Any]],
    figures: Mapping[str, Draw] | None = None,
) -> None:
    """Write what ``find`` returns for each run to KIND.json, and draw it with all ``figures``.

    Without ``figures`` it is drawn as maps. The files of each run go to its RUN/analysis. With
    several runs, FIGURE_compared shows all of them; it goes to ``--to``, by default RUN/analysis of
    the first.
    """
    configs, found = [], []
    for run in open_runs(arguments, needs):
        configs.append(asdict(run.task.config))
        found.append(find(run))
        keep(run, kind, found[-1])
    for name, draw in (figures or {kind: draw_maps}).items():
        for path, config, one in zip(arguments.runs, configs, found, strict=True):
            if drawn := draw({reweight_label(config["reweight"]): one}):
                save_figure(path / "analysis", name, *drawn)
        if len(found) > 1 and (drawn := draw(dict(zip(labels(configs), found, strict=True)))):
            save_figure(arguments.to or arguments.runs[0] / "analysis", f"{name}_compared", *drawn)


def labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A distinct label for each run: its functions, plus seed and position where runs share it."""
    names = [reweight_label(config["reweight"]) for config in configs]
    for more in ([f"seed {config['seed']}" for config in configs], [f"run {i}" for i in range(1, len(configs) + 1)]):
        count = Counter(names)
        names = [f"{name}, {extra}" if count[name] > 1 else name for name, extra in zip(names, more, strict=True)]
    return names


def made(folder: Path) -> Path:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_figure(folder: Path, kind: str, figure: Figure, rows: Sequence[Row]) -> None:
    """Write a figure as pictures and as numbers to ``folder``, and print where they are."""
    made(folder)
    for suffix, content in figure_files(figure, rows).items():
        write_atomic(folder / f"{kind}{suffix}", content)
        print(folder / f"{kind}{suffix}")
