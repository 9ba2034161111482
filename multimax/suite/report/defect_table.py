"""The table of what released code does, measured next to the functions and models here."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from multimax.suite.identity import setting
from multimax.suite.measures.defects import Defect, defects
from multimax.suite.report.metrics import HEADLINE
from multimax.suite.report.outputs import Output, number, span, table
from multimax.suite.report.statistics import paired
from multimax.suite.runs import Run
from multimax.suite.tasks import task_module

COLUMNS = ("code", "what", "measured", "released", "here")
TEXT = """# What released code does, by measurement

Made by `python -m multimax.suite.report`. Released code that is not a package is written out from reading it, in
`multimax/suite/measures/defects.py`, and in the model's option `as_released` for the decoding. Two fills of the same
row that give the same numbers are two ways to the same defect.

"""


def defect_table(records: Sequence[Run]) -> Output:
    pairs = [*released_decoding(records)]
    rows = [asdict(defect) for defect in [*defects(), *(defect for defect, _ in pairs)]]
    return table("defects", TEXT, COLUMNS, rows, [record for _, used in pairs for record in used])


def released_decoding(records: Sequence[Run]) -> Iterator[tuple[Defect, list[Run]]]:
    """Translation by a model that decodes with another model than it trains, by runs paired by seed; and the runs."""
    metric = HEADLINE["mt"].metric
    released = [r for r in records if r.config["task"] == "mt" and r.config["model"]["as_released"]]
    for experiment, function in dict.fromkeys((r.experiment, r.function) for r in released):
        theirs = [r for r in released if (r.experiment, r.function) == (experiment, function)]
        model = theirs[0].config["model"] | {"as_released": False}
        wanted = setting(theirs[0].config | {"model": model}, task_module("mt").Config)
        ours = [r for r in records if r.function == function and r.setting == wanted]
        as_released, here = (
            {r.config["seed"]: r.summary["metrics"][metric] for r in group} for group in (theirs, ours)
        )
        if difference := paired(as_released, here):
            interval = span(difference.interval, "+") or "one pair"
            values = [" ".join(number(of[seed]) for seed in difference.seeds) for of in (as_released, here)]
            used = [r for r in (*theirs, *ours) if r.config["seed"] in difference.seeds]
            what = f"{function}: no modulation in cross-attention nor in incremental decoding ({experiment})"
            measured = f"test BLEU; released less here {number(difference.mean, '+')}, 95% interval {interval}"
            yield Defect("the authors' fairseq port", what, measured, *values), used
