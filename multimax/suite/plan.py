"""``results/plan.yaml``: what will be run to test each claim, written down before it runs.

An entry is a comparison: its question, what is trained, the functions, one statistic, the smallest effect of interest
and the seeds. Runs carry the digest of their entry, the revision of the code and their seed; they confirm only where
all three are the plan's. Whatever else has run is exploratory.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from multimax.suite.errors import UserError

PLAN = Path("results/plan.yaml")
CONFIRMING_FROM, TUNING_FROM = 100, 1000
"""Seeds: those below CONFIRMING_FROM made the hypotheses, those from TUNING_FROM on chose the learning rates."""


@dataclass(frozen=True)
class Comparison:
    """One entry of the plan.

    ``ours`` is tested against the first of ``controls`` and, if that holds, against the next. ``others`` run beside
    them. The statistic is the mean over seeds of the paired difference of ``measure``, or of its natural logarithm
    where ``scale`` is "log"; ``margin`` is in its units.
    """

    id: str
    question: str
    claim: str
    refuted_if: str
    tag: Literal["paper setting", "mechanism", "stand-in"]
    primary: bool
    problem: str
    variant: str
    ours: str
    controls: tuple[str, ...]
    others: tuple[str, ...]
    rates: Mapping[str, float]
    measure: str
    better: Literal["higher", "lower"]
    scale: Literal["plain", "log"]
    margin: float
    first_seed: int
    last_seed: int
    revision: str

    @property
    def functions(self) -> tuple[str, ...]:
        return (self.ours, *self.controls, *self.others)

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.last_seed + 1)

    @property
    def digest(self) -> str:
        """Of all that the entry says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def confirms(self, digest: str, revision: str, seed: int) -> bool:
        """Whether a run that carries these is one of the plan's."""
        return (digest, revision) == (self.digest, self.revision) and seed in self.seeds


def read_plan(path: Path = PLAN) -> dict[str, Comparison]:
    """The comparisons by their names. Raises UserError for an entry that is not one, naming what is wrong with it."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    return {name: _comparison(f"{path}: {name}", {"id": name, **entry}) for name, entry in (content or {}).items()}


def _comparison(where: str, entry: dict[str, Any]) -> Comparison:
    known = {field.name for field in fields(Comparison)}
    if wrong := known ^ entry.keys():
        kind = "lacks" if wrong <= known else "has the unknown key"
        raise UserError(f"{where} {kind} {', '.join(sorted(wrong))}")
    entry |= {key: tuple(entry[key]) for key in ("controls", "others")}
    comparison = Comparison(**entry)
    if missing := set(comparison.functions) - comparison.rates.keys():
        raise UserError(f"{where} has no learning rate for {', '.join(sorted(missing))}")
    if not CONFIRMING_FROM <= comparison.first_seed <= comparison.last_seed < TUNING_FROM:
        raise UserError(f"{where}: seeds that confirm are {CONFIRMING_FROM} to {TUNING_FROM - 1}")
    if comparison.margin <= 0:
        raise UserError(f"{where}: the margin must be above zero, got {comparison.margin}")
    return comparison
