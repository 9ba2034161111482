"""The ablation as one table: what each part of MultiMax and of the model around it is worth."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from multimax.suite.identity import site_label
from multimax.suite.report.claims import by_seed
from multimax.suite.report.metrics import possible
from multimax.suite.report.outputs import Output, Row, table
from multimax.suite.report.statistics import mean_over_seeds, paired
from multimax.suite.report.tables import DIFFERENCE, MEAN, difference_cells, holm_of, mean_cells
from multimax.suite.runs import Run

COLUMNS = ("scale", "epochs", "attention", "output", "head", "qkv bias", "seeds", *MEAN, "from", *DIFFERENCE)
TEXT = """# The ablation: top-1 accuracy, %

Made by `python -m multimax.suite.report` from the runs in `results/runs` whose experiment begins with `ablation_`; the
values are those of the last step. The difference is paired by seed and is what changes with one thing: from MultiMax of
both orders in the same model, or, for that itself in another model, from that in the usual one, with average pooling
and a bias of queries, keys and values. Intervals are of 95% (Student's t), those of a mean cut at 100%. *p* is that of
a two-sided paired t test, *p Holm* the same adjusted for the rows of a scale.

"""
Around = tuple[str, str]
USUAL: Around = ("average pooling", "yes")
FULL = ("multimax", "multimax")


def ablation_table(records: Sequence[Run]) -> Iterator[Output]:
    """One table of all ablations, at every scale; none if there are no runs."""
    used = [record for record in records if record.experiment.startswith("ablation_")]
    if not used:
        return
    scales = defaultdict(list)
    for record in used:
        scales[record.config["scale"], f"{record.config['training']['epochs']:g}"].append(record)
    rows = [row for key, group in scales.items() for row in scale_rows(*key, group)]
    yield table("ablation", TEXT, COLUMNS, rows, used)


def scale_rows(scale: str, epochs: str, records: Sequence[Run]) -> Iterator[Row]:
    """The rows of one scale: the usual model first and, within each model, the best mean first."""
    groups: dict[tuple[Around, tuple[str, str]], list[Run]] = defaultdict(list)
    for record in records:
        sites = record.config["reweight"]
        key = around(record.config["model"]), (site_label(sites["attention"]), site_label(sites["output"]))
        groups[key].append(record)
    values = {key: by_seed(group, "top1") for key, group in groups.items()}

    def order(key: tuple[Around, tuple[str, str]]) -> tuple[bool, Around, float]:
        return key[0] != USUAL, key[0], -mean_over_seeds(values[key].values()).mean

    differences = {}
    for key in groups:
        where, sites = key
        reference = (where, FULL) if sites != FULL else (USUAL, FULL)
        if key != reference and reference in values:
            differences[key] = paired(values[key], values[reference])
    adjusted = holm_of(differences)
    for key in sorted(groups, key=order):
        where, (attention, output) = key
        compared_with = "usual model" if where != USUAL and (attention, output) == FULL else "MultiMax"
        yield {
            "scale": scale,
            "epochs": epochs,
            "attention": attention,
            "output": output,
            "head": where[0],
            "qkv bias": where[1],
            "seeds": " ".join(map(str, sorted(values[key]))),
            **mean_cells(mean_over_seeds(values[key].values(), possible("top1"))),
            "from": compared_with if key in differences else "",
            **difference_cells(differences.get(key), adjusted.get(key)),
        }


def around(model: Mapping[str, object]) -> Around:
    """The ablated parts of the model: how it classifies, and whether queries, keys and values have a bias."""
    return ("average pooling" if model["pool"] == "avg" else "class token"), ("yes" if model["qkv_bias"] else "no")
