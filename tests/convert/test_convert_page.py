"""docs/convert.md does what it says."""

import contextlib
import io
import re

import pytest

from scripts.convert_table import PAGE


def test_the_snippets_run_and_print_what_stands_below_them(tmp_path, monkeypatch):
    for library in ("timm", "transformers"):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    snippets = re.findall(r"```python\n(.*?)```\n(?:\n((?:    [^\n]*\n)+))?", PAGE.read_text(), re.DOTALL)
    assert len(snippets) >= 5
    for code, expected in snippets:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == re.sub("^    ", "", expected, flags=re.MULTILINE)
