"""The README: its snippets run, its table of findings is that of the records, its pictures and links are there."""

import re
from typing import Any

import pytest
import torch

from multimax import reweight
from multimax.suite.plan import read_plan
from multimax.suite.report.readme import findings_lines, with_findings


@pytest.fixture
def readme(root):
    return (root / "README.md").read_text()


def test_its_snippets_run(readme, capsys):
    use, convert, add = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict[str, Any] = {}
    exec(use, names)
    exec(convert, names)
    assert capsys.readouterr().out.count("GPT2Attention  multimax") == 2
    assert names["tokens"].shape == (1, 8)
    assert any(isinstance(module, reweight.MultiMax) for module in names["vit"].modules())
    exec(add, {"__name__": "my_functions"})
    scores = torch.randn(3, 5)
    torch.testing.assert_close(reweight.create("scaled", scale=2.0)(scores), torch.softmax(2 * scores, -1))


def test_its_functions_are_those_of_the_registry(readme):
    rows = [re.split(r" *(?<!\\)\| *", line) for line in readme.splitlines() if line.startswith("| `")]
    assert sorted(name.strip("`") for _, name, *_ in rows) == sorted(reweight.available())
    for _, name, _, zeros, parameters, loss, *_ in rows:
        module = reweight.create(name.strip("`"))
        expected = (module.can_be_zero, module.has_parameters, module.has_loss)
        assert (zeros == "yes", parameters != "", loss != "none") == expected, name


def test_its_findings_are_those_of_the_records(readme, root):
    assert with_findings(readme, root / "results/tables/findings.csv") == readme, "make results"
    assert "| **" in readme


def test_a_text_without_a_place_for_findings_stays(root):
    assert with_findings("nothing", root / "results/tables/findings.csv") == "nothing"


def test_each_primary_comparison_has_its_row(root):
    _, _, *rows = findings_lines(root / "results/tables/findings.csv")
    entries = read_plan(root / "results/plan.yaml").values()
    primary = [comparison for entry in entries for comparison in entry.comparisons if comparison.primary]
    assert len(rows) >= len(primary) > 0
    for comparison in primary:
        assert [row for row in rows if row.startswith(f"| {comparison.claim}: ")]


def test_it_is_short_and_what_it_points_to_is_there(readme, root):
    assert len(readme.splitlines()) < 150
    for target in re.findall(r"\]\((?!http)([^)#]+)", readme):
        assert (root / target).exists(), target
