"""What an entry of the plan trains, and on what, in words."""

import re

import yaml

from multimax.suite.composition import CONFIGS
from multimax.suite.plan import Entry

VARIANTS = {"linear": "scores linear in the input", "mlp": "an MLP before the scores"}


def setting(entry: Entry) -> str:
    """The small problem and its model, or how the configuration describes itself and what the plan changes of it."""
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
    path = CONFIGS / kind / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    text = " ".join(content.get("description", "").split())
    words = re.split(r"[:,.;] ", re.sub(r"^DEMO[^:]*: ", "", text))[0]
    return re.sub(r"^An? ", lambda article: article[0].lower(), words) or name.replace("_", " ")
