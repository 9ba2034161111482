"""Pages and pictures of the measured tables, and the aims compared with them.

    python -m benchmarks.report [RESULTS]

Reads ``RESULTS/benchmarks/*.csv`` with their records, prints the aims, and writes ``aims.md`` and,
in ``report/``, a page and a picture for each table. Tables of tiny sizes are left out; with
``--quick`` only those are read.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.aims import AIMS, Aim, Row
from benchmarks.bench import RESULTS
from multimax.suite.text_tables import csv_table, markdown_table

COLUMNS = ("aim", "bound", "measured", "verdict")


@dataclass(frozen=True)
class Table:
    """What a benchmark measured, and the record of where and how."""

    path: Path
    rows: Sequence[Row]
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.record["benchmark"]

    @property
    def on_gpu(self) -> bool:
        return not self.path.stem.endswith("_cpu")


def read_tables(folder: Path, quick: bool) -> list[Table]:
    """The tables of a folder in the order of their names: those of tiny sizes, or the others."""
    tables = []
    for path in sorted(folder.glob("*.csv")):
        sidecar = path.with_suffix(".json")
        record = json.loads(sidecar.read_text()) if sidecar.is_file() else {}
        if record.get("quick") == quick and "benchmark" in record:
            with path.open(newline="") as file:
                tables.append(Table(path, list(csv.DictReader(file)), record))
    return tables


def verdicts(tables: Sequence[Table]) -> list[Row]:
    """Each aim, what was measured and whether it is met, with a row for each measured device."""
    rows: list[Row] = []
    for aim in AIMS:
        fitting = [table for table in tables if table.name == aim.table and table.on_gpu == aim.on_gpu]
        found = [(table, values) for table in fitting if (values := [*aim.values(table.rows)])]
        bound = f"{'at least' if aim.at_least else 'at most'} {aim.bound:g}"
        text = {"aim": f"{'GPU' if aim.on_gpu else 'CPU'}: {aim.text}", "bound": bound}
        if not found:
            rows.append(text | {"measured": "", "verdict": "not measured here"})
        for table, values in found:
            met = sum(aim.met(value) for _, value in values)
            measured = describe(aim, values) + (f", {table.record['device']}" if aim.on_gpu else "")
            verdict = "met" if met == len(values) else f"not met ({met} of {len(values)})" if met else "not met"
            if all(row["milliseconds"] and value != value for row, value in values):
                measured, verdict = "", "not measured here"  # the case was, but not this number
            rows.append(text | {"measured": measured, "verdict": verdict})
    return rows


def describe(aim: Aim, values: Sequence[tuple[Row, float]]) -> str:
    """The value of each row, or only the least and the greatest if there are more than four."""
    if len(values) > 4:
        ranked = sorted(values, key=lambda pair: pair[1] if pair[1] == pair[1] else float("inf"))
        values = [ranked[0], ranked[-1]]
    names = [", ".join(filter(None, (row[key] for key in aim.named_by))) for row, _ in values]
    return "; ".join(
        f"{value:.3g}" + (f" ({name})" if name else "") + (f": {row['note']}" if value != value and row["note"] else "")
        for (row, value), name in zip(values, names, strict=True)
    )


def page(table: Table) -> str:
    """What the record says, then a table of contestants and cases for each part and direction."""
    record = table.record
    allocator = record["allocator"]
    kept = "kept by mallopt, as in training" if allocator["keeps_freed_memory"] else "torch's CUDA allocator"
    variables = ", ".join(f"{k}={v}" for k, v in allocator["variables"].items())
    load = record["environment"].get("load")
    peers = ", ".join(f"{k} {v}" for k, v in record["peers"].items() if v) or "none"
    facts = {
        "device": f"{record['device']}, {record['environment']['threads']} threads, {record['dtype']}",
        "torch": f"{record['environment']['torch']}; peers: {peers}",
        "freed memory": kept + (f"; {variables}" if variables else ""),
        "copy": f"{record['copy_gb_per_s']} GB/s read and written",
        "measured": f"{record['time']}, {record['seconds']} s" + (f", load {load[0]:.1f} at the end" if load else ""),
        "revision": str(record["revision"]),
        "command": f"`{record['command']}`",
        "left out": "; ".join(record["left_out"]) or "nothing",
    }
    text = f"# {table.path.stem}\n\n" + markdown_table(("", ""), list(facts.items()))
    text += (
        "\nMade by `python -m benchmarks.report` from the CSV of the same name. Median milliseconds, and in brackets "
        "the median ratio to the first row in the same turn.\n"
    )
    for part, direction in dict.fromkeys((row["part"], row["direction"]) for row in table.rows):
        rows = [row for row in table.rows if (row["part"], row["direction"]) == (part, direction)]
        sizes = {row["case"]: float(row["size"] or 0) for row in rows}
        cases = sorted(sizes, key=lambda case: sizes[case])
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for row in rows:
            cells.setdefault((row["function"], row["way"]), {})[row["case"]] = cell(row)
        body = [(*names, *(found.get(case, "") for case in cases)) for names, found in cells.items()]
        text += f"\n## {part}{', ' if direction else ''}{direction}\n\n"
        text += markdown_table(("function", "way", *cases), body)
    return text


def cell(row: Row) -> str:
    if row["error"]:
        return f"{row['error']}, same bits: {row['same_bits']}"
    if not row["milliseconds"]:
        return row["note"].replace("|", "/")
    return f"{float(row['milliseconds']):.3g} ({float(row['ratio']):.2f})"


def aims_page(rows: Sequence[Row]) -> str:
    text = (
        "# Aims\n\nMade by `python -m benchmarks.report` from the tables in this folder; benchmarks/README.md says how "
        "to read it. The worst of the values decides.\n\n"
    )
    return text + markdown_table(COLUMNS, [[row[column] for column in COLUMNS] for row in rows])


def outputs(results: Path, quick: bool = False) -> list[Any]:
    """The pages and pictures, each with the tables that it was made from."""
    import matplotlib

    from benchmarks.pictures import draw
    from multimax.suite.figures.files import drawn
    from multimax.suite.report.outputs import Output

    made_with = {"matplotlib": matplotlib.__version__}
    tables = read_tables(results / "benchmarks", quick)
    sources = [path for table in tables for path in (table.path, table.path.with_suffix(".json"))]
    rows = verdicts(tables)
    found = [
        Output("benchmarks/aims", {".csv": csv_table(COLUMNS, rows), ".md": aims_page(rows).encode()}, (), sources)
    ]
    for table in tables:
        files = {".md": page(table).encode()}
        figure = draw(table.name, table.rows)
        if figure is not None:
            files |= {".svg": drawn(figure, "svg"), ".png": drawn(figure, "png")}
        paths = [table.path, table.path.with_suffix(".json")]
        found.append(Output(f"benchmarks/report/{table.path.stem}", files, (), paths, made_with))
    return found


def write(results: Path, quick: bool) -> None:
    """Print the aims and, where the packages for it are installed, write them, the pages and the pictures."""
    for row in verdicts(read_tables(results / "benchmarks", quick)):
        measured = f", is {row['measured']}" if row["measured"] else ""
        print(f"{row['verdict']:>18}  {row['aim']}: {row['bound']}{measured}")
    try:
        from multimax.suite.report.outputs import save
    except ImportError as error:
        print(f"pages and pictures need pip install -e '.[report]' ({error})")
    else:
        for output in outputs(results, quick):
            save(output, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS.parent)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    write(arguments.results, arguments.quick)


if __name__ == "__main__":
    main()
