"""The README: its snippets run, its table of findings matches the records, its pictures and links exist."""

import re
from typing import Any

import pytest
import torch

from multimax import reweight
from multimax.suite.plan import read_plan
from multimax.suite.report.findings import findings
from multimax.suite.report.readme import answer, findings_lines, in_words, with_findings


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
    rows = [line for line in findings_lines(root / "results/tables/findings.csv") if line.startswith("|")][2:]
    entries = read_plan(root / "results/plan.yaml").values()
    primary = [comparison for entry in entries for comparison in entry.comparisons if comparison.primary]
    assert len(rows) == len(primary) > 0
    for comparison in primary:
        assert [row for row in rows if row.startswith(f"| {comparison.claim} | ")]


def verdict(comparison, tag, word):
    return {"comparison": comparison, "tag": tag, "verdict": word}


def test_its_answer_counts_what_was_won_lost_and_is_open():
    first = [
        "supported",
        "supported, below the margin",
        "contradicted",
        "not run: 3 of 9 seeds",
        "not run",
        "inconclusive: 1",
    ]
    second = ["supported", "no gain above the margin", "not tested", "not run", "not run", "not tested"]
    pairs = [
        (verdict(str(i), "stand-in", ours), verdict(str(i), "stand-in", other))
        for i, (ours, other) in enumerate(zip(first, second, strict=True))
    ]
    (line,) = answer([*pairs, pairs[-1]])  # a comparison by two measures counts once
    assert line == (
        "In small models of images and language, MultiMax wins 2 of 6 comparisons with softmax, and 1 of these also "
        "against a learned temperature; 1 is lost; 2 are not finished; 1 is without a gain that could be told from "
        "none."
    )
    assert answer([(verdict("a", "mechanism", "not run"), verdict("a", "mechanism", "not run"))]) == [
        "In small problems that each ask one thing of attention, MultiMax wins 0 of 1 comparisons with softmax; "
        "1 is not finished."
    ]


@pytest.mark.parametrize(
    ("statistic", "margin", "words"),
    [
        ("ln error@32", 0.69, "error at 32 items; margin: 50% of it"),
        ("accuracy@256", 2.0, "accuracy at 256 items; margin: 2 points"),
        ("top1", 1.0, "accuracy; margin: 1 point"),
        ("test_sacrebleu@last", 0.5, "BLEU; margin: 0.5"),
        ("my_own", 0.1, "my own; margin: 0.1"),
    ],
)
def test_its_measures_are_in_words_with_their_margins(statistic, margin, words):
    assert in_words(statistic, margin) == words


def test_the_report_counts_what_is_decided(root):
    """docs/reproduction-report.md says in words how many primary comparisons there are and how many are decided."""
    found = [
        of for of in findings(read_plan(root / "results/plan.yaml"), root / "results/planned") if of.comparison.primary
    ]
    decided = {of.comparison.id for of in found if of.measured}
    names = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight"]
    of, all_of = names[len(decided)], names[len({each.comparison.id for each in found})]
    report = (root / "docs/reproduction-report.md").read_text()
    assert f"{of} of {all_of} of which are decided" in report
    assert f"**{all_of.capitalize()} primary comparisons" in report


def test_it_is_short_and_what_it_points_to_is_there(readme, root):
    assert len(readme.splitlines()) < 150
    for target in re.findall(r"\]\((?!http)([^)#]+)", readme):
        assert (root / target).exists(), target
