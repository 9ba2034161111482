"""The parts of the package, drawn from its imports: a part stands above everything that it imports.

Run for a look: python docs/architecture.py > architecture.svg
"""

import ast
from functools import cache
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDTH, ROW, BOX = 940, 58, 34


def part(module: str) -> str | None:
    """multimax.suite.engine for what is in it, multimax.kernels for what is in that; None for what is not ours."""
    words = module.split(".")
    if words[0] != "multimax" or len(words) == 1:
        return None
    return ".".join(words[: 3 if words[1] == "suite" and len(words) > 2 else 2])


def imports() -> dict[str, set[str]]:
    """For each part those that it imports, by the statements at the top of its modules."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "multimax").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if (here := part(module)) is None or here == "multimax.suite":
            continue
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.ImportFrom) and statement.module:
                of = statement.module
                names = (
                    [f"{of}.{name.name}" for name in statement.names] if of in ("multimax", "multimax.suite") else [of]
                )
            elif isinstance(statement, ast.Import):
                names = [name.name for name in statement.names]
            else:
                names = []
            found.setdefault(here, set()).update(filter(None, map(part, names)))
    return {here: {other for other in others if other in found and other != here} for here, others in found.items()}


def levels(found: dict[str, set[str]]) -> dict[str, int]:
    """0 for a part that imports no other; else one more than the highest that it imports."""

    @cache
    def level(here: str) -> int:
        return max((level(other) + 1 for other in found[here]), default=0)

    return {here: level(here) for here in found}


def drawing() -> str:
    """SVG: the suite above the library, and in both a row for each level."""
    level = levels(imports())
    in_suite = {here: here.startswith("multimax.suite") for here in level}
    rows = sorted({(in_suite[here], level[here]) for here in level}, reverse=True)
    shapes = []
    for number, row in enumerate(rows):
        parts = sorted(here for here in level if (in_suite[here], level[here]) == row)
        step = WIDTH / len(parts)
        for i, here in enumerate(parts):
            x, y = i * step + 4, number * ROW + 10
            fill = "#0072B2" if row[0] else "#D55E00"
            name = escape(here.split(".")[-1])
            shapes.append(
                f'<rect x="{x:.1f}" y="{y}" width="{step - 8:.1f}" height="{BOX}" rx="5" fill="{fill}"/>'
                f'<text x="{x + step / 2 - 4:.1f}" y="{y + 22}">{name}</text>'
            )
    height = len(rows) * ROW + 4
    style = "text { font: 13px sans-serif; text-anchor: middle; fill: #fff }"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"><style>{style}</style>'
        f"{''.join(shapes)}</svg>\n"
    )


if __name__ == "__main__":
    print(drawing(), end="")
