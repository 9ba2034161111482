"""What an entry of the plan trains, and on what, in words; and how configurations describe themselves."""

import re

import yaml

from multimax.suite.composition import CONFIGS, INSTEAD
from multimax.suite.plan import Entry

VARIANTS = {"linear": "scores linear in the input", "mlp": "an MLP before the scores"}


def setting(entry: Entry) -> str:
    """The small problem and its model, or how the configuration describes itself and what the plan changes in it."""
    if entry.problem != "train":
        name = entry.problem.replace("_", " ")
        return f"{name}, {VARIANTS.get(entry.variant, entry.variant)}" if entry.variant else name
    given = dict(override.split("=", 1) for override in entry.overrides)
    model = [
        f"{key.removeprefix('model.').replace('_', ' ')} {value}" for key, value in given.items() if key[:6] == "model."
    ]
    return ", ".join([described(given), *model])


def described(given: dict[str, str]) -> str:
    """The first words of the description of the experiment, or of the task at its scale; the name if it has none."""
    names = given.get("task", ""), given.get("scale", "")
    kind, name = ("experiment", given["experiment"]) if "experiment" in given else ("recipe", "_".join(names))
    words = re.split(r"[:,.;] ", re.sub(r"^DEMO[^:]*: ", "", description(kind, name)))[0]
    return re.sub(r"^An? ", lambda article: article[0].lower(), words) or name.replace("_", " ")


def description(kind: str, name: str, of_run: str = "") -> str:
    """How a configuration file describes itself today, in one line; if it is gone, ``of_run``, the run's copy.

    What the run has instead of the file's data or model stays at the end.
    """
    path = CONFIGS / kind / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "description" not in content:
        return " ".join(of_run.split())
    _, instead, own = of_run.rpartition(INSTEAD)
    return " ".join(content["description"].split()) + (instead and instead + own)
