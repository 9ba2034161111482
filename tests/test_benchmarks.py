"""The benchmarks run at tiny sizes and give the rows that they promise. Speed is for a quiet machine to measure."""

import importlib
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from functools import partial
from itertools import product

import pytest
import torch
from function_kinds import WITH_KERNEL

from benchmarks import aims, compat, report, timing
from benchmarks.__main__ import NEEDS, PLAN
from benchmarks.aims import AIMS, Aim
from benchmarks.bench import BOTH, COLUMNS, FORWARD, Benchmark
from multimax import reweight
from multimax.attention import BACKENDS
from tests.benchmark_runs import run

STEP = "training step"
FUNCTIONS = ("softmax", "multimax", "entmax")


def contestants(rows, part, direction):
    return {(row["function"], row["way"]) for row in rows if (row["part"], row["direction"]) == (part, direction)}


def test_functions(tmp_path, monkeypatch):
    rows, record = run("functions", tmp_path, monkeypatch)
    ours = {("softmax", "torch"), *((name, "kernel") for name in WITH_KERNEL)}
    packaged = {("sparsemax", "entmax package, sorted"), ("entmax15", "entmax package, sorted")}
    packaged |= {("entmax", "entmax package, bisection")}
    written_out = {("multimax", "written out"), ("multimax", "written out, compiled")}
    eager = {(name, "eager") for name in WITH_KERNEL}
    for direction in (FORWARD, BOTH):
        assert contestants(rows, "row length", direction) == contestants(rows, "threads", direction) == ours
    assert contestants(rows, "shapes", FORWARD) == ours | eager | written_out
    assert contestants(rows, "shapes", BOTH) == ours | eager | written_out | packaged
    bits = {(row["function"], row["way"], row["same_bits"]) for row in rows if row["same_bits"]}
    learned = [name for name in WITH_KERNEL if reweight.traits(name).has_parameters]
    assert bits == set(product(learned, ("kernel", "eager"), ("yes",)))
    assert all(float(row["error"]) < 1e-4 for row in rows if row["same_bits"])
    assert record["environment"]["torch"] == torch.__version__
    assert record["allocator"]["keeps_freed_memory"]
    assert record["peers"]["entmax"]
    assert not record["left_out"]


def test_attention(tmp_path, monkeypatch):
    rows, _ = run("attention", tmp_path, monkeypatch, "--functions", *FUNCTIONS)
    fixed = {("softmax", "torch"), ("multimax", "written out"), ("multimax", "flash"), ("softmax", "flash")}
    flex = {("softmax", "FlexAttention"), ("multimax", "FlexAttention")}
    assert fixed | flex <= contestants(rows, "DeiT-S", FORWARD)
    assert fixed <= contestants(rows, "DeiT-S", BOTH)
    assert not flex & contestants(rows, "DeiT-S", BOTH)
    # The default has a row of its own, and so has every other path that can serve the function.
    for name in FUNCTIONS:
        mine = [row for row in rows if (row["part"], row["function"], row["direction"]) == ("DeiT-S", name, BOTH)]
        paths = {"reference", "blocked"} | ({"sdpa"} if name == "softmax" else set())
        assert sorted({row["note"] or row["way"] for row in mine} & set(BACKENDS) - {"flash"}) == sorted(paths)
        assert [row["way"] for row in mine].count("default") == 1
    assert {row["case"] for row in rows if row["part"] == "length"} == {"N=8", "N=8, causal", "N=16", "N=16, causal"}


def test_output_layer(tmp_path, monkeypatch):
    rows, _ = run("output_layer", tmp_path, monkeypatch)
    ways = ("whole", "pieces", "whole, compiled")
    assert contestants(rows, "loss", BOTH) == set(product(("softmax", "multimax"), ways))
    adaptive = {("softmax", "torch"), ("softmax", "ours"), ("multimax", "ours")}
    assert contestants(rows, "adaptive softmax", BOTH) == adaptive
    assert all(float(row["per_s"]) > 0 for row in rows)


def test_training_steps(tmp_path, monkeypatch):
    rows, _ = run("training_steps", tmp_path, monkeypatch, "--functions", "softmax", "multimax")
    for model in ("DeiT-S", "Transformer-XL base", "IWSLT14 model"):
        assert contestants(rows, model, STEP) == {("softmax", "ours"), ("multimax", "ours")}
    assert {row["ratio"] for row in rows if row["function"] == "softmax"} == {"1.000"}


def test_convert(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    rows, _ = run("convert", tmp_path, monkeypatch, "--functions", "softmax", "multimax")
    ways = {("softmax", "fused"), ("softmax", "written out"), ("softmax", "converted"), ("multimax", "converted")}
    for model in ("GPT-2 small", "ViT-S"):
        assert contestants(rows, model, FORWARD) == contestants(rows, model, BOTH) == ways


def test_compat(tmp_path, monkeypatch, root):
    rows, _ = run("compat", tmp_path, monkeypatch)
    assert {row["function"] for row in rows} == {*compat.FUNCTIONS, *compat.LOSSES}
    for part in compat.SHAPES:
        pairs = product((*compat.FUNCTIONS, *compat.LOSSES), ("entmax package", "ours"))
        assert contestants(rows, part, BOTH) == set(pairs)
    kept = next(table for table in report.read_tables(root / "results/benchmarks", False) if table.name == "compat")
    assert compat.TABLE.search(compat.PAGE.read_text())[0] == compat.table(kept.rows)


def test_input(tmp_path, monkeypatch, capsys):
    rows, _ = run("input", tmp_path, monkeypatch)
    ways = ("timm, bytes", "timm, floats", "ours")
    assert [row["way"] for row in rows if row["part"] == "loader"] == list(ways)
    assert all(float(row["per_s"]) > 0 for row in rows)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"images per second and core, over timm's loader: \d+\.\d\d", last)


def test_a_comparison_is_by_turns_and_within_turns(monkeypatch):
    seconds = {"a": iter([1.0, 2.0, 4.0, 1.0]), "b": iter([3.0, 6.0, 12.0, 3.0])}
    order = []

    def timed(call, device):
        order.append(call())
        return next(seconds[order[-1]])

    monkeypatch.setattr(timing, "timed", timed)
    calls = [lambda: "a", lambda: "b"]
    first, second = timing.compare(calls, torch.device("cpu"), seconds=1e6, repeats=4)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert (first.milliseconds, first.ratio, first.repeats) == (1500, 1, 4)
    assert (second.milliseconds, second.ratio) == (4500, 3)


def test_who_has_used_up_its_time_sits_out_and_who_fails_is_left_out(monkeypatch):
    monkeypatch.setattr(timing, "timed", lambda call, device: call())

    def broken():
        raise ValueError("not today\nat all")

    calls = [lambda: 0.01, lambda: 0.5, lambda: 30.0, broken]
    fast, slow, slowest, failed = timing.compare(calls, torch.device("cpu"), seconds=1.5, repeats=20)
    assert (fast.repeats, slow.repeats, slowest.repeats) == (20, 3, 1)
    assert failed.failure == "ValueError: not today"
    assert failed.repeats == 0


def test_peak_memory_counts_what_is_held_at_once():
    size = 2**20

    def call():
        first = torch.empty(size, dtype=torch.int8)
        del first
        second, third = torch.empty(size, dtype=torch.int8), torch.empty(size, dtype=torch.int8)
        return second, third

    assert timing.peak_memory(call, torch.device("cpu")) == 2 * size


ROW = dict.fromkeys(COLUMNS, "") | {"part": "p", "case": "c", "function": "multimax", "way": "kernel"}


def table(*rows, on_gpu=False):
    rows = [ROW | {"size": "10", "direction": BOTH, "milliseconds": "1"} | row for row in rows]
    path = f"functions_{'some_gpu' if on_gpu else 'cpu'}.csv"
    return report.Table(report.Path(path), rows, {"benchmark": "functions", "device": "some GPU"})


def test_an_aim_is_met_where_all_its_rows_are_within_the_bound(monkeypatch):
    make = partial(Aim, "text", "functions", 1.3, aims.column("ratio", function="multimax"))
    monkeypatch.setattr(report, "AIMS", [make()])

    def verdict(*tables):
        return [row["verdict"] for row in report.verdicts(tables)]

    assert verdict() == ["not measured here"]
    assert verdict(table({"ratio": "1.3"})) == ["met"]
    assert verdict(table({"ratio": "1.2"}, {"ratio": "1.4"})) == ["not met (1 of 2)"]
    assert verdict(table({"ratio": "", "milliseconds": "", "note": "OutOfMemoryError"})) == ["not met"]
    assert verdict(table({"ratio": "1"}, on_gpu=True)) == ["not measured here"]
    beside = lambda rows: ((rows[0], aims.quotient("ratio", rows[0], rows, function="softmax")) for _ in "1")  # noqa: E731
    monkeypatch.setattr(report, "AIMS", [Aim("text", "functions", 1.3, beside)])
    assert verdict(table({"ratio": "2.4"}, {"ratio": "2", "function": "softmax"})) == ["met"]
    assert verdict(table({"ratio": "2.8"}, {"ratio": "2", "function": "softmax"})) == ["not met"]
    monkeypatch.setattr(report, "AIMS", [make(at_least=True)])
    assert verdict(table({"ratio": "2"})) == ["met"]


def test_the_share_of_the_logits_is_what_is_held_beside_the_gradients():
    row = ROW | aims.LARGEST_VOCABULARY | {"peak_mb": "3", "case": "1024 tokens of 128, V=1024"}
    assert [share for _, share in aims.share_of_logits([row])] == [pytest.approx((3 - 1) / 4)]


def test_a_case_that_an_aim_names_and_no_table_has_is_not_met_in_silence():
    rows = [ROW | {"way": "default", "direction": BOTH, "case": "N=128", "ratio": "0.9"}]
    (_, there), (missing, value) = aims.attention_of("N=128", "N=256")(rows)
    assert there == 0.9
    assert (missing["case"], missing["note"]) == ("N=256", "not measured")
    assert math.isnan(value)


def test_every_aim_is_about_a_table_that_some_benchmark_makes():
    assert all(importlib.util.find_spec(f"benchmarks.{aim.table}") for aim in AIMS)


@pytest.mark.parametrize(("device", "name"), [(d, n) for d in PLAN for n in PLAN[d] if n not in NEEDS])
def test_a_benchmark_takes_the_options_of_the_plan(device, name, monkeypatch):
    class Begun(Exception):
        pass

    def begin(benchmark):
        raise Begun

    monkeypatch.setattr(Benchmark, "__post_init__", begin)
    monkeypatch.setattr(sys, "argv", [name, "--device", device, *PLAN[device][name][1].split()])
    with pytest.raises(Begun):
        importlib.import_module(f"benchmarks.{name}").main()


def test_the_script_for_a_gpu_goes_through_its_paces_on_a_cpu(root, tmp_path):
    script = [
        str(root / "benchmarks" / "gpu.sh"),
        "--device",
        "cpu",
        "--quick",
        "--results",
        str(tmp_path),
        "output_layer",
    ]
    done = subprocess.run(script, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 0, done.stderr
    assert "output_layer_cpu: loss, 16 tokens of 8, V=64, multimax, pieces" in done.stdout
    assert "not measured here  GPU" in done.stdout
    assert (tmp_path / "benchmarks" / "aims.md").is_file()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_script_for_a_gpu_says_that_there_is_none(root):
    done = subprocess.run(
        [str(root / "benchmarks" / "gpu.sh")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable},
    )
    assert done.returncode == 1
    assert "sees no CUDA device" in done.stderr


def test_warming_calls_each_contestant_in_one_process_and_writes_nothing(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("benchmarks.bench.Contestant.forward", lambda self, inputs: called.append(self.function))
    monkeypatch.setattr("benchmarks.bench.Contestant.both", lambda self, inputs, grad: called.append(self.function))
    arguments = ["functions", "--device", "cpu", "--quick", "--output", str(tmp_path), "--functions", "multimax"]
    counts = []
    for share in ("0/1", "0/3", "1/3", "2/3"):
        monkeypatch.setattr(sys, "argv", [*arguments, "--warm", share])
        importlib.import_module("benchmarks.functions").main()
        counts.append(len(called) - sum(counts))
    assert counts[0] == sum(counts[1:]) > 0
    assert max(counts[1:]) - min(counts[1:]) <= 1
    assert not list(tmp_path.iterdir())


def test_tiny_tables_become_pages_and_pictures(tmp_path, monkeypatch):
    run(
        "training_steps", tmp_path / "benchmarks", monkeypatch, "--functions", "softmax", "multimax", "--models", "deit"
    )
    outputs = {output.name: output for output in report.outputs(tmp_path, quick=True)}
    assert set(outputs) == {"benchmarks/aims", "benchmarks/report/training_steps_cpu"}
    page = outputs["benchmarks/report/training_steps_cpu"].files
    assert b"## DeiT-S, training step" in page[".md"]
    assert page[".png"].startswith(b"\x89PNG")
    assert not report.read_tables(tmp_path / "benchmarks", quick=False)


def test_making_the_report_again_changes_nothing(root):
    results = root / "results"
    for output in report.outputs(results):
        kept = json.loads((results / f"{output.name}.json").read_text())
        kept.pop("revision")
        assert kept == output.sidecar(results), f"{output.name} is out of date: python -m benchmarks.report"
        for suffix, content in output.files.items():
            assert (results / f"{output.name}{suffix}").read_bytes() == content, f"{output.name}{suffix}"


def test_segments(tmp_path, monkeypatch):
    pytest.importorskip("torch_geometric")
    rows, _ = run("segments", tmp_path, monkeypatch)
    ours = {("softmax", "PyG"), *((name, "segment") for name in WITH_KERNEL)}
    for part, direction in product(("sorted", "in any order", "power law"), (FORWARD, BOTH)):
        assert contestants(rows, part, direction) == ours
