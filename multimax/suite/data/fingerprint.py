"""A few short values that identify a run's data, and show whether and how other data differ.

A fingerprint maps names, such as ``classes`` or ``training images``, to text, a list of names, or numbers by name. It
contains no paths, so moving the data does not change it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Fingerprint: TypeAlias = dict[str, str | list[str] | dict[str, int]]

SHOWN = 5  # names in a list that a message has room for


def digest(parts: Iterable[bytes]) -> str:
    """Sixteen hexadecimal digits that identify byte strings, their order and their boundaries."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()[:16]


def difference(here: Mapping, there: Mapping, other: str = "in the run") -> str | None:
    """The first difference between two fingerprints, as in ``classes: cat, dog here, bus, car in the run``.

    Returns None if they agree. ``other`` says where ``there`` is.
    """
    for name in dict.fromkeys([*there, *here]):
        mine, theirs = here.get(name), there.get(name)
        if mine == theirs:
            continue
        ours, others = items(mine), items(theirs)
        only = [[item for item in one if item not in set(another)] for one, another in ((ours, others), (others, ours))]
        if not any(only):
            return f"{name}: in another order here than {other}"
        return f"{name}: {shown(only[0])} here, {shown(only[1])} {other}"
    return None


def items(value: str | list[str] | dict[str, int] | None) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    return [f"{name} {number}" for name, number in value.items()] if isinstance(value, dict) else list(value)


def shown(names: list[str]) -> str:
    more = len(names) - SHOWN
    return (", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")) if names else "nothing else"
