"""Numbers as text, rounded once and without a negative zero."""


def number(value: float | None, sign: str = "", digits: int = 2) -> str:
    """``value`` with ``digits`` behind the point; ``sign`` "+" also shows that of a positive one; empty for None."""
    return "" if value is None else f"{value:{sign}z.{digits}f}"


def span(bounds: tuple[float, float] | None, sign: str = "", digits: int = 2) -> str:
    return "" if bounds is None else " to ".join(number(bound, sign, digits) for bound in bounds)
