"""A made-up plan and the runs that it asks for."""

import math
import random

import yaml
from plan_entry import COMPARISON, ENTRY

from multimax.suite.plan import read_plan
from multimax.suite.planned.table import text

SEEDS = range(100, 110)


def write(tmp_path, gains, comparison=None, seeds=SEEDS, measures=("error@32",), deviation=0.1, **columns):
    """Write a plan with the entries A, B, ... and their runs; returns the table of A.

    ``gains`` are the average gains of the entries, each one number for all measures or a tuple with
    one for each.
    """
    comparison = COMPARISON | {"margins": dict.fromkeys(measures, 0.5)} | (comparison or {})
    draw, arms = random.Random(0), [comparison["ours"], *comparison["controls"]]
    names = "ABCDEFGH"[: len(gains)]
    plan = {
        name: ENTRY | {"rates": dict.fromkeys(arms, 0.01), "comparisons": {f"is_{name}": comparison}} for name in names
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    for entry, gain in zip(read_plan(tmp_path / "plan.yaml").values(), gains, strict=True):
        of_measures = gain if isinstance(gain, tuple) else (gain,) * len(measures)
        rows = [
            {"plan": entry.digest, "revision": entry.revision, "arm": arm, "rate": "0.01", "seed": str(seed)}
            | {
                measure: str(math.exp(draw.gauss(0, deviation) - own * (arm == comparison["ours"])))
                for measure, own in zip(measures, of_measures, strict=True)
            }
            | columns
            for seed in seeds
            for arm in arms
        ]
        (tmp_path / f"{entry.id}.csv").write_text(text(rows))
    return tmp_path / "A.csv"
