"""Options of a configuration that have a range or a list of values, which are said where the option is."""

import math
import sys
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any

from multimax.suite.errors import UserError
from multimax.suite.plugins import has_target
from multimax.suite.registry import Registry


def bounded(least: float, most: float = math.inf, *, default: Any = MISSING, limit: int = sys.maxsize) -> Any:
    """A dataclass's field for a number in [least, most], or None.

    ``limit`` is far above what anybody means, and far below what takes all of a machine's memory, or forever.
    """
    return field(default=default, metadata={"bounds": (least, most), "limit": limit})


def choice(*values: str, default: Any = MISSING) -> Any:
    """A dataclass's field for one of ``values``."""
    return field(default=default, metadata={"choices": values})


def registered(registry: Registry, *, default: Any = MISSING) -> Any:
    """A dataclass's field for a name in ``registry``, of which a ``_target_`` takes the place."""
    return field(default=default, metadata={"choices": registry})


def check_options(config: Any, prefix: str = "") -> None:
    """Raise UserError for a field of ``config``, or of the dataclasses in it, whose value is not one of its own.

    Whatever its range, a number, or one in a list, is finite, and an integer fits into 64 bits.
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
