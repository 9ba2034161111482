"""Checks of the structure of JSON and YAML files."""

from typing import Any

from multimax.suite.errors import UserError

NUMBER = (int, float)


def check_shape(value: Any, shape: Any, where: str) -> None:
    """Raise UserError, saying where, unless ``value`` has this ``shape``.

    A shape is a type or several, a list with the shape of its items, or a dict with the shapes of its values, where
    ``...`` stands for any name. True and False do not count as numbers.
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise UserError(f"{where} should be a mapping, and is {short(value)}")
        if unnamed := [key for key in value if not isinstance(key, str)]:
            raise UserError(f"{where}: {short(unnamed[0])} should be a name")
        if ... in shape:
            shape = dict.fromkeys(value, shape[...])
        if wrong := shape.keys() ^ value.keys():
            extra = sorted(wrong - shape.keys())
            raise UserError(f"{where} should not have {extra[0]}" if extra else f"{where} lacks {sorted(wrong)[0]}")
        for key, of in shape.items():
            check_shape(value[key], of, f"{where}: {key}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise UserError(f"{where} should be a list, and is {short(value)}")
        for number, item in enumerate(value):
            check_shape(item, shape[0], f"{where}[{number}]")
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
        kinds = " or ".join(kind.__name__ for kind in (shape if isinstance(shape, tuple) else (shape,)))
        raise UserError(f"{where} should be {kinds}, and is {short(value)}")


def check_known(value: dict[str, Any], shapes: dict[str, Any], where: str) -> None:
    """Raise UserError if a key of ``value`` has another shape than in ``shapes``; keys may be missing or unknown."""
    known = {key: shape for key, shape in shapes.items() if key in value}
    check_shape({key: value[key] for key in known}, known, where)


def short(value: Any) -> str:
    return repr(value)[:60]
