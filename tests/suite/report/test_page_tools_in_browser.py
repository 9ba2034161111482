"""Tools of the page in headless Chromium.

Findings, groups of runs, two runs side by side, downloads, and cards on a phone.
"""

import csv
import statistics
from dataclasses import replace

import pytest
from chromium import IN_CHROMIUM
from page_runs import make_run
from planned_runs import SEEDS, write
from selenium.webdriver import ActionChains, Keys

from multimax.suite.report.page.data import page_data, read_run
from multimax.suite.report.page.findings_data import findings_data
from multimax.suite.report.page.html import page
from multimax.suite.runs import Run

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a page with findings and runs.

    There are three entries, the last one not run, and two experiments with two rates of smoothing.
    """
    folder = tmp_path_factory.mktemp("tools")
    write(folder, [1.0, 0.0, 0.3], {"controls": ["softmax", "temperature"]})
    (folder / "C.csv").unlink()
    for experiment in ("made_a", "made_b"):
        for function in ("softmax", "multimax"):
            for seed in (0, 1):
                for rate in (0.1, 0.2):
                    make_run(
                        folder / "runs", function, seed, name=f"{experiment}-{function}-{rate}-{seed}",
                        experiment=experiment, training={"label_smoothing": rate}, level=50 + 10 * rate + len(function),
                    )  # fmt: skip
    runs = [replace(read_run(Run(path)), folder=f"runs/{path.name}/") for path in sorted((folder / "runs").iterdir())]
    found = findings_data(folder / "plan.yaml", folder)
    (folder / "index.html").write_bytes(page(page_data(runs, "Runs", "Made up.", findings=found)))
    return (folder / "index.html").as_uri()


@pytest.fixture
def opened(browser, address):
    browser.size(1300, 1000)
    browser.open(address, drawn="#findings-table tr")
    return browser


def test_the_first_screen_has_each_test_with_its_effect_and_verdict(opened):
    assert opened.one("#findings").rect["y"] < 200
    assert (
        opened.texts("#findings-table .judged")
        == ["✓ supported"] * 2 + ["≤ no gain above the margin"] * 2 + ["○ not run"] * 2
    )
    assert len(opened.all("#findings-table .interval")) == 4
    assert opened.texts("#findings-table .effect")[-1] == ""
    at = [mark.rect["x"] for mark in opened.all("#findings-table .marker")]
    assert at[0] > at[2]  # larger gains are further right
    opened.click('[data-which="run"]')
    assert len(opened.all("#findings-table .against")) == 4
    assert "findings=run" in opened.run("return location.hash")
    assert opened.errors() == []


def test_behind_a_finding_are_its_plan_its_runs_and_its_command(opened, address):
    opened.click("#findings-table .open")
    text = opened.one("#details").text
    assert "It does not." in text
    assert "git worktree add ../confirm abc" in text
    rows = opened.texts("#details .plain tbody tr")
    assert len(rows) == len(SEEDS)
    assert rows[0].startswith("100")
    shared = opened.run("return location.hash")
    ActionChains(opened.driver).send_keys(Keys.ESCAPE).perform()
    opened.wait(lambda: not opened.run("return document.querySelector('#details').open"))
    opened.open(address + shared, drawn="#details .plain")
    assert opened.one("#details-title").text == "It does."


def test_marks_of_secondary_comparisons_are_hollow(browser, tmp_path):
    fills = {}
    for primary in (True, False):
        write(tmp_path, [1.0], {"primary": primary})
        run = Run(make_run(tmp_path / f"runs{primary}"))
        found = findings_data(tmp_path / "plan.yaml", tmp_path)
        (tmp_path / "index.html").write_bytes(page(page_data([read_run(run)], "Runs", "Made up.", findings=found)))
        browser.open((tmp_path / "index.html").as_uri(), drawn="#findings-table .marker")
        fills[primary] = browser.one("#findings-table .marker").value_of_css_property("fill")
    assert fills[True] != fills[False]


def test_runs_are_grouped_by_a_key_of_their_configurations(opened):
    opened.run("document.querySelector('#curves').scrollIntoView()")
    opened.wait(lambda: opened.all('[data-name="made_a"] .line'))
    assert len(opened.all('[data-name="made_a"] .line')) == 4  # two functions with two rates
    opened.choose("group", "training.label_smoothing")
    assert opened.texts(".panel h3") == ["deit top1 by training.label_smoothing"]
    opened.wait(lambda: len(opened.all(".panel .line")) == 4)
    label = "training.label_smoothing=0.2"
    rows = {row[0]: row for row in table(opened)}
    row = rows[f"multimax-softmax · {label}"]
    values = [50 + 2 + len("multimax") + seed for seed in (0, 1)] * 2  # of both experiments
    assert row[1] == "made_a made_b"
    assert float(row[3]) == statistics.fmean(values)
    assert float(row[4]) == pytest.approx(statistics.stdev(values), abs=0.005)
    half = 3.182 * statistics.stdev(values) / 2  # Student's t with three degrees of freedom
    assert [float(end) for end in row[5].split(" to ")] == pytest.approx([58.5 + 2 - half, 58.5 + 2 + half], abs=0.01)
    assert float(row[9]) == len("multimax") - len("softmax")
    opened.choose("group", "experiment")
    assert set(opened.texts(".panel h3")) == {"deit top1 by experiment"}


def table(browser):
    script = """return [...document.querySelectorAll("#table tbody tr")].map(
        (row) => [...row.cells].map((cell) => cell.textContent))"""
    return browser.run(script)


def test_two_runs_stand_side_by_side_with_what_differs(opened, address):
    first, second = "made_a-softmax-0.1-0", "made_a-multimax-0.2-1"
    opened.open(f"{address}#run={first}", drawn="#details .compare")
    opened.choose("with", second)
    tables = opened.all("#details .plain")
    settings = dict(row.text.split(" ", 1) for row in tables[0].find_elements("css selector", "tbody tr"))
    assert settings == {
        "reweight.attention.name": "softmax multimax", "seed": "0 1", "training.label_smoothing": "0.1 0.2",
    }  # fmt: skip
    metrics = [row.text.split() for row in tables[1].find_elements("css selector", "tbody tr")]
    assert ["top1", "58", "61", "3"] in metrics
    assert opened.texts("#details .command code") == [
        f"python train.py task=deit scale=demo reweight={function} seed={seed}"
        for function, seed in (("softmax", 0), ("multimax", 1))
    ]
    opened.open(address + opened.run("return location.hash"), drawn="#details .plain")
    assert len(opened.all("#details .plain")) >= 2
    assert opened.errors() == []


def test_the_rows_that_are_shown_are_downloaded_as_csv(opened, tmp_path):
    allow = {"behavior": "allow", "downloadPath": str(tmp_path)}
    opened.driver.execute_cdp_cmd("Page.setDownloadBehavior", allow)
    opened.click('[data-filter="function"] [data-value="softmax"]')
    opened.click('[data-view="runs"]')
    opened.click('#table [data-column="validation"]')
    opened.click("#download")
    path = tmp_path / "multimax-runs.csv"
    opened.wait(path.is_file)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["function"].split(" · ")[0] for row in rows] == ["softmax"] * 8
    values = [float(row["final.top1"]) for row in rows]
    assert values == sorted(values, reverse=True) == [float(row["validation"]) for row in rows]
    assert {row["config.training.label_smoothing"] for row in rows} == {"0.1", "0.2"}
    assert {row["config.data.name"] for row in rows} == {"digits"}
    assert opened.errors() == []


@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_shows_effect_and_verdict_without_scrolling(opened, address, width):
    opened.size(width, 800)
    opened.open(f"{address}#view=runs", drawn="#findings-table tr")
    for selector in ("#findings-table td.effect:not(:empty)", "#findings-table .verdict", "#table td:not(:empty)"):
        for element in opened.all(selector)[:12]:
            box = element.rect
            assert box["width"] > 0
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
    assert opened.run("return document.documentElement.scrollWidth") == width
    opened.choose("order", "seed", in_address="sort.runs=-seed")
    seeds = opened.texts('#table td[data-title="Seed"]')
    assert seeds == sorted(seeds, reverse=True)
