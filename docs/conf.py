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
TABLES = (
    *("tables/findings", "tables/claims_numbers", "tables/claims_comparisons", "tables/defects"),
    *("tables/cost", "tables/step_overhead", "benchmarks/aims"),
)
for name in TABLES:
    page = HERE / "findings" / f"{Path(name).name}.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text((HERE.parent / "results" / f"{name}.md").read_text().replace("../../docs/", "../"))


def name_files_of_the_repository(app, page, source):
    """A link that leaves docs/ is for readers of the repository; here it becomes the page made of it, or its name."""
    folder = (HERE / page).parent

    def named(link):
        target = (folder / link[2].split("#")[0]).resolve()
        if "://" in link[2] or target.is_relative_to(HERE):
            return link[0]
        name = target.relative_to(HERE.parent)
        if str(name.with_suffix("").relative_to("results") if name.parts[0] == "results" else name) in TABLES:
            return f"[{link[1]}]({os.path.relpath(HERE / 'findings' / name.name, folder)})"
        return f"{link[1]} (`{name}`)"

    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", named, source[0])


def setup(app):
    app.connect("source-read", name_files_of_the_repository)
