"""What a loader leaves out or replaces is counted and reported, and refused above a share."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from multimax.suite.errors import UserError


@dataclass
class LeftOut:
    """How many of how many, and why. As text: ``3 of 1,440 training images are left out, because ... (3)``."""

    what: str  # such as "training images"
    total: int
    reasons: Mapping[str, int] = field(default_factory=Counter)
    done: str = "are left out"
    first: str = ""  # where the first of them is
    limited: bool = True  # whether a large share is refused

    @property
    def count(self) -> int:
        return sum(self.reasons.values())

    def __str__(self) -> str:
        most_first = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        why = "; ".join(f"{reason} ({count:,})" for reason, count in most_first)
        first = f"; the first is {self.first}" if self.first else ""
        return f"{self.count:,} of {self.total:,} {self.what} {self.done}, because: {why}{first}"

    def check(self, most: float) -> None:
        """Raise UserError if the share is larger than ``most``."""
        if self.limited and self.count > most * self.total:
            raise UserError(f"{self}: that is more than the share data.max_left_out={most:g}")


def beside(
    root: Path, read: Iterable[Path], why: Callable[[Path], str] = lambda _: "of no split that is read"
) -> LeftOut:
    """What a folder holds besides the files and folders that are ``read``."""
    used = {*read}
    above = {parent for path in used for parent in path.parents}

    def entries(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            yield from entries(path) if path in above else [path]

    there = [*entries(root)]
    rest = [path for path in there if path not in used]
    reasons = Counter("hidden" if path.name.startswith(".") else why(path) for path in rest)
    seen = [path.name for path in rest if not path.name.startswith(".")] or [path.name for path in rest]
    return LeftOut(f"files and folders in {root}", len(there), reasons, first=seen[0] if seen else "", limited=False)


def checked(found: Iterable[LeftOut], most: float) -> list[LeftOut]:
    """Those that leave anything out; raises UserError for a share above ``most``."""
    some = [one for one in found if one.count]
    for one in some:
        one.check(most)
    return some


def restore(found: Iterable[Mapping[str, Any]]) -> list[LeftOut]:
    """The inverse of ``record``."""
    return [LeftOut(**{name: value for name, value in one.items() if name != "count"}) for one in found]


def record(found: Iterable[LeftOut]) -> list[dict[str, Any]]:
    """``found`` in a form for JSON, for a run's summary."""
    return [asdict(one) | {"reasons": dict(one.reasons), "count": one.count} for one in found]
