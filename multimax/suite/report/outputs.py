"""Files under ``results/``, each with a sidecar saying what it was made from.

A sidecar ``NAME.json`` holds the runs with the revisions that trained them, digests of other sources and of the files
themselves, and the code revision at which any of these last changed. Unchanged output is not written again, so
regenerating everything leaves the tree as it was.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from multimax.suite.engine import provenance
from multimax.suite.figures.files import figure_files
from multimax.suite.files import write_atomic
from multimax.suite.runs import Run
from multimax.suite.text_tables import Row, csv_table, markdown_table


@dataclass(frozen=True)
class Output:
    """A table or a figure: ``files`` by suffix, such as ``.csv``, all called ``name``, a path under ``results/``."""

    name: str
    files: Mapping[str, bytes]
    records: Sequence[Run] = ()
    sources: Sequence[Path] = ()  # files under results/, besides the records, that it depends on
    made_with: Mapping[str, str] = field(default_factory=dict)  # versions of what draws it

    def sidecar(self, results: Path) -> dict[str, object]:
        """What it was made from, apart from the revision of the code."""
        return {
            "runs": {record.path.name: record.summary["revision"] for record in self.records},
            "sources": {str(path.relative_to(results)): digest(path.read_bytes()) for path in self.sources},
            "files": {Path(self.name).name + suffix: digest(content) for suffix, content in self.files.items()},
            "made_with": dict(self.made_with),
        }


def table(
    name: str,
    text: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    records: Sequence[Run] = (),
    sources: Sequence[Path] = (),
    csv_only: Sequence[str] = (),
    legend: str = "",
) -> Output:
    """The output ``tables/NAME``: CSV, and Markdown between ``text`` and ``legend`` that leaves out ``csv_only``."""
    shown = [column for column in columns if column not in csv_only]
    markdown = text + markdown_table(shown, [[row.get(column, "") for column in shown] for row in rows]) + legend
    return Output(f"tables/{name}", {".csv": csv_table(columns, rows), ".md": markdown.encode()}, records, sources)


def picture(
    name: str, figure: Figure, rows: Sequence[Row], records: Sequence[Run] = (), sources: Sequence[Path] = ()
) -> Output:
    """The output ``figures/NAME`` of a figure that shows ``rows``; its sidecar names the version of Matplotlib."""
    made_with = {"matplotlib": matplotlib.__version__}
    return Output(f"figures/{name}", figure_files(figure, rows), records, sources, made_with)


def save(output: Output, results: Path) -> list[Path]:
    """Write the output and its sidecar if either has changed; returns the paths of the output's files."""
    sidecar, path = output.sidecar(results), results / f"{output.name}.json"
    files = {results / f"{output.name}{suffix}": content for suffix, content in output.files.items()}
    known = json.loads(path.read_text()) if path.is_file() else {}
    known.pop("revision", None)
    if known != sidecar or any(not file.is_file() or file.read_bytes() != content for file, content in files.items()):
        # The revision is asked for before the files below make the tree dirty.
        content_of_sidecar = json.dumps(sidecar | {"revision": revision()}, indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            write_atomic(file, content)
        write_atomic(path, content_of_sidecar + "\n")
    return list(files)


def rewrite(page: str, results: Path, made: Callable[[str], str]) -> None:
    """Replace the text of a page in the repository around ``results``, if it exists, by what is ``made`` from it."""
    path = results.resolve().parent / page
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if (now := made(text)) != text:
            path.write_text(now, encoding="utf-8")
            print(path)


@cache
def revision() -> str | None:
    return provenance.revision()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def number(value: float | None, sign: str = "", digits: int = 2) -> str:
    """``value`` rounded to ``digits`` decimals, with ``sign`` "+" also before a positive one; empty for None."""
    return "" if value is None else f"{value:{sign}z.{digits}f}"


def span(bounds: tuple[float, float] | None, sign: str = "", digits: int = 2) -> str:
    return "" if bounds is None else " to ".join(number(bound, sign, digits) for bound in bounds)
