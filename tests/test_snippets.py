"""The Python in the documentation runs, page by page, and prints what is shown below it."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SNIPPET = re.compile(r"^```python\n(.*?)^```\n(?:\n((?:    [^\n]*\n)+))?", re.MULTILINE | re.DOTALL)
ELSEWHERE = {
    "README.md": "test_readme.py",
    "docs/fairseq.md": "suite/fairseq/test_weights.py",
    "docs/method.md": "suite/report/test_findings.py",
    "docs/trainers.md": "integrations/test_transformers.py",
    "docs/transformers.md": "integrations/test_transformers.py",
}
"""Pages that are run by a test which has what they presuppose."""
PAGES = {
    str(path.relative_to(ROOT)): found
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
    if (found := SNIPPET.findall(path.read_text(encoding="utf-8")))
}


@pytest.mark.parametrize("page", sorted(PAGES.keys() - ELSEWHERE.keys()))
def test_it_runs_and_prints_what_stands_below_it(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "page.py"
    names: dict[str, object] = {"__name__": "page"}
    for number, (code, expected) in enumerate(PAGES[page]):
        # Put the code in a file, since Triton and torch.compile read the source of what they compile.
        file = source.with_stem(f"page{number}")
        file.write_text(code)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, file, "exec"), names)
        if expected:
            assert printed.getvalue() == re.sub("^    ", "", expected, flags=re.MULTILINE)


@pytest.mark.parametrize("page", ELSEWHERE)
def test_the_others_are_run_where_it_says(page):
    assert page in PAGES
    assert Path(page).name in (ROOT / "tests" / ELSEWHERE[page]).read_text()
