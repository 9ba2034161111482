"""Options of a configuration with a range or a list of values, declared with the option itself."""

import math
import sys
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any

from multimax.suite.errors import UserError
from multimax.suite.plugins import has_target
from multimax.suite.registry import Registry


def bounded(least: float, most: float = math.inf, *, default: Any = MISSING, limit: int = sys.maxsize) -> Any:
    """A dataclass field for a number in [least, most], or None.

    ``limit`` is far above any sensible value, and far below what would exhaust a machine's memory or run forever.
    """
    return field(default=default, metadata={"bounds": (least, most), "limit": limit})


def choice(*values: str, default: Any = MISSING) -> Any:
    """A dataclass field for one of ``values``."""
    return field(default=default, metadata={"choices": values})


def registered(registry: Registry, *, default: Any = MISSING) -> Any:
    """A dataclass field for a name in ``registry``, which a ``_target_`` replaces."""
    return field(default=default, metadata={"choices": registry})


def check_options(config: Any, prefix: str = "") -> None:
    """Raise UserError if a field of ``config``, or of a dataclass in it, has a value that it does not allow.

    Every number, also in a list, must be finite, and every integer must fit into 64 bits.
    """
    for item in fields(config):
        key, value = f"{prefix}{item.name}", getattr(config, item.name)
        if is_dataclass(value):
            check_options(value, f"{key}.")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{key}={value} is not finite")
            if isinstance(number, int) and abs(number) > (limit := item.metadata.get("limit", sys.maxsize)):
                raise UserError(f"{key}={value} is {f'above {limit}' if number > 0 else f'below -{limit}'}")
        choices = item.metadata.get("choices", (value,))
        if value not in choices and not (isinstance(choices, Registry) and has_target(config)):
            raise UserError(f"{key}={value}: choose one of {', '.join(choices)}")
        least, most = item.metadata.get("bounds", (-math.inf, math.inf))
        if "bounds" in item.metadata and value is not None and not least <= value <= most:
            range_ = f"below {least}" if most == math.inf else f"not in [{least}, {most}]"
            raise UserError(f"{key}={value} is {range_}")
