"""Run the benchmarks at tiny sizes."""

import csv
import importlib
import json
import sys

from benchmarks.bench import COLUMNS


def run(name, folder, monkeypatch, *options):
    """Run a benchmark at tiny sizes; return its rows and its record."""
    monkeypatch.setattr(sys, "argv", [name, "--device", "cpu", "--quick", "--output", str(folder), *options])
    importlib.import_module(f"benchmarks.{name}").main()
    with (folder / f"{name}_cpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(tuple(row) == COLUMNS for row in rows)
    for row in (row for row in rows if not row["same_bits"]):
        assert 0 < float(row["low"]) <= float(row["milliseconds"]) <= float(row["high"]), row
        assert float(row["ratio"]) > 0
        assert float(row["peak_mb"]) > 0 or name == "input"  # torch does not count Pillow's memory
    return rows, json.loads((folder / f"{name}_cpu.json").read_text())
