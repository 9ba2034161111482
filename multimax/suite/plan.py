"""``results/plan.yaml``: what will be run to test each claim, written down before it runs.

An entry is a set of runs and the comparisons that they decide. A run carries the digest of its entry, the revision of
the code and its seed, and it confirms only if all three are as planned. All other runs are exploratory.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from multimax.suite.errors import UserError
from multimax.suite.shapes import NUMBER, check_shape

PLAN = Path("results/plan.yaml")
CONFIRMING_FROM, TUNING_FROM = 100, 1000
"""Seeds: those below CONFIRMING_FROM made the hypotheses, those from TUNING_FROM on chose the learning rates."""


@dataclass(frozen=True)
class Arm:
    """What is compared, at one learning rate: a function at the attention, or what the entry calls so."""

    name: str
    rate: float


@dataclass(frozen=True)
class Comparison:
    """A claim, and the test that decides it.

    ``ours`` is tested against the first of ``controls`` and, if that holds, against the next. The statistic is the mean
    over seeds of the paired difference of a measure, or of its natural logarithm where ``scale`` is "log".
    ``margins`` has the smallest effect of interest for each measure, in the statistic's units; of several measures the
    claim is that all of them gain.
    """

    id: str
    question: str
    claim: str
    refuted_if: str
    primary: bool
    ours: str
    controls: tuple[str, ...]
    margins: Mapping[str, float]
    better: Literal["higher", "lower"]
    scale: Literal["plain", "log"]


@dataclass(frozen=True)
class Entry:
    """Runs that are planned together.

    ``problem`` is one of ``multimax.suite.mechanisms``, in the ``variant`` of its model, or "train": runs of train.py
    with these ``overrides``. ``rates`` names the arms, each with its learning rate: functions at the attention, softmax
    being at the output of all, or what ``arms`` says with overrides of its own. The rates are chosen with the
    ``tuning`` overrides, which judge by other data than the plan's runs. Without a ``revision`` an entry is not ready.
    """

    id: str
    tag: Literal["paper setting", "mechanism", "stand-in"]
    problem: str
    variant: str
    overrides: tuple[str, ...]
    tuning: tuple[str, ...]
    arms: Mapping[str, tuple[str, ...]]
    rates: Mapping[str, float]
    first_seed: int
    last_seed: int
    revision: str
    comparisons: tuple[Comparison, ...]

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.last_seed + 1)

    @property
    def decisive(self) -> list[str]:
        """The arms that a primary comparison needs, which run before the others."""
        tests = [of for of in self.comparisons if of.primary] or self.comparisons
        needed = {arm for of in tests for arm in (of.ours, *of.controls)}
        return [arm for arm in self.rates if arm in needed]

    @property
    def digest(self) -> str:
        """Digest of everything in the entry."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def confirms(self, digest: str, revision: str, seed: int) -> bool:
        """Whether a run that carries these is one of the planned runs."""
        return bool(self.revision) and (digest, revision) == (self.digest, self.revision) and seed in self.seeds


COMPARISON = {
    **dict.fromkeys(("question", "claim", "refuted_if", "ours", "better", "scale"), str),
    "primary": bool,
    "controls": [str],
    "margins": {...: NUMBER},
}
ENTRY = {
    **dict.fromkeys(("tag", "problem", "variant", "revision"), str),
    **dict.fromkeys(("first_seed", "last_seed"), int),
    "overrides": [str],
    "tuning": [str],
    "arms": {...: [str]},
    "rates": {...: NUMBER},
    "comparisons": {...: dict},
}
"""The fields of each in the file, beside its name."""


def read_plan(path: Path = PLAN) -> dict[str, Entry]:
    """The entries by name. Raises UserError for an incomplete entry, saying what is wrong with it."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    check_shape(content or {}, {...: dict}, str(path))
    plan = {name: _entry(f"{path}: {name}", name, entry) for name, entry in (content or {}).items()}
    names = [of.id for entry in plan.values() for of in entry.comparisons]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{path} has two comparisons with the name {', '.join(sorted(twice))}")
    return plan


def _entry(where: str, name: str, content: Any) -> Entry:
    check_shape(content, ENTRY, where)
    comparisons = tuple(_comparison(f"{where}: {of}", of, said) for of, said in content["comparisons"].items())
    lists = {key: tuple(content[key]) for key in ("overrides", "tuning")}
    entry = Entry(**content | lists | {"id": name, "comparisons": comparisons})
    if not all(0 < rate < math.inf for rate in entry.rates.values()):
        raise UserError(f"{where}: learning rates are numbers above 0, got {dict(entry.rates)}")
    if not CONFIRMING_FROM <= entry.first_seed <= entry.last_seed < TUNING_FROM:
        raise UserError(f"{where}: seeds that confirm are {CONFIRMING_FROM} to {TUNING_FROM - 1}")
    for of in entry.comparisons:
        if missing := {of.ours, *of.controls} - entry.rates.keys():
            raise UserError(f"{where}: {of.id} has no learning rate for {', '.join(sorted(missing))}")
    return entry


def _comparison(where: str, name: str, content: Any) -> Comparison:
    check_shape(content, COMPARISON, where)
    comparison = Comparison(**content | {"id": name, "controls": tuple(content["controls"])})
    if not comparison.controls:
        raise UserError(f"{where}: controls are empty: name what {comparison.ours} is compared with")
    for key in ("better", "scale"):
        if (value := content[key]) not in (allowed := get_args(get_type_hints(Comparison)[key])):
            raise UserError(f"{where}: {key} is {value}: choose one of {', '.join(allowed)}")
    if not comparison.margins or not all(0 < margin < math.inf for margin in comparison.margins.values()):
        raise UserError(f"{where}: margins must be above zero, got {dict(comparison.margins)}")
    return comparison
