"""Sphinx's configuration: `make docs` builds the pages into docs/_build/html, and a warning is an error."""

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import architecture  # noqa: E402

import multimax  # noqa: E402

project = "MultiMax"
author = "The MultiMax reproduction developers"
release = multimax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "MultiMax"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

(HERE / "_static" / "architecture.svg").write_text(architecture.drawing())
ROOT = HERE.parent
PAGES = {
    **{
        path: f"findings/{path.stem}"
        for path in (*ROOT.glob("results/tables/*.md"), ROOT / "results/benchmarks/aims.md")
    },
    **{path: f"findings/experiments/{path.parent.name}" for path in ROOT.glob("experiments/*/README.md")},
    ROOT / "results/plan.yaml": "findings/plan",
}
"""Files outside docs/ that have a page."""
SOURCES = {page: path for path, page in PAGES.items()}
PLAN = "# The plan\n\n```{literalinclude} ../../results/plan.yaml\n:language: yaml\n```\n"

for path, page in PAGES.items():
    made = HERE / f"{page}.md"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(PLAN if path.suffix == ".yaml" else path.read_text())


def name_files_of_the_repository(app, page, source):
    """A link that leaves docs/ is for readers of the repository; here it becomes the page made of it, or its name."""
    here = (HERE / page).parent
    folder = SOURCES.get(page, HERE / page).parent  # where links start from

    def named(link):
        image, text, address = link.groups()
        target, _, place = address.partition("#")
        if "://" in address or not target:
            return link[0]
        path = (folder / target).resolve()
        if found := PAGES.get(path) or PAGES.get(path / "README.md"):
            path = HERE / f"{found}.md"
        if image or path.is_relative_to(HERE):
            return f"{image}[{text}]({os.path.relpath(path, here)}{place and f'#{place}'})"
        return f"{text} (`{path.relative_to(ROOT)}`)"

    source[0] = re.sub(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)", named, source[0])


def setup(app):
    app.connect("source-read", name_files_of_the_repository)
