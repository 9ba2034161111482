"""The documentation builds without a warning, and computes in the browser what the library computes."""

import json
import math
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from multimax import reweight
from multimax.suite.figures.style import STYLES
from multimax.suite.measures.sparsity import multi_modality, sparsity

DOCS = Path(__file__).parents[1] / "docs"
STATIC = DOCS / "_static"
# A build writes pages into docs/, where another build could read them half written.
pytestmark = pytest.mark.xdist_group("docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, folder]
    built = subprocess.run(command, capture_output=True, text=True)
    assert not built.returncode, built.stderr
    return folder


@pytest.fixture(scope="module")
def chromium():
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        yield driver


def test_no_page_loads_anything_from_elsewhere(site):
    for path in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=\"([^\"]*)\"", path.read_text())
        assert loaded
        assert not [address for address in loaded if re.match(r"(?:https?:)?//", address)], path


def test_links_lead_somewhere_and_the_report_s_to_pages_of_the_site(site):
    for path in site.rglob("*.html"):
        for address in re.findall(r"<(?:a|img)\b[^>]*?\b(?:src|href)=\"([^\"#]+)", path.read_text()):
            assert ":" in address or (path.parent / unquote(address)).exists(), (path, address)
    report = (site / "reproduction-report.html").read_text()
    assert {"findings/plan.html", "findings/convergence.html", "findings/experiments/mechanisms.html"} <= {
        *re.findall(r'href="([^"#]+)', report)
    }
    left = re.findall(r'\(<code[^>]*><span class="pre">((?:results|experiments)/[^<]*)', report)
    assert left == ["results/claims.yaml"]
    assert "marked_mean_sparse" in (site / "findings" / "plan.html").read_text()


def test_colours_are_those_of_the_figures():
    entries = re.findall(r'^  (\w+): \["([^"]+)", "([^"]+)"\],$', (STATIC / "explore.js").read_text(), re.M)
    assert len(entries) > 5
    for name, label, color in entries:
        assert (STYLES[name].label, STYLES[name].color) == (label, color)


def rows(count):
    """Scores and parameters; every fifth row has a tie."""
    draw = random.Random(0)
    for i in range(count):
        x = [draw.gauss(0, 3) for _ in range(draw.randint(2, 12))]
        if i % 5 == 0:
            x[1] = x[0]
        ranges, ts = ([draw.gauss(0, 1) for _ in range(4)] for _ in range(2))
        options = {"temperature": draw.uniform(0.1, 3), "alpha": draw.uniform(1.1, 3), "ranges": ranges, "ts": ts}
        yield {"x": x, "options": options, "threshold": draw.gauss(0, 1)}


def test_the_page_computes_what_the_library_does(chromium, site):
    asked = list(rows(1000))
    chromium.get((site / "explained" / "trade-off.html").as_uri())
    answers = chromium.execute_script(
        """return JSON.stringify(JSON.parse(arguments[0]).map(({x, options, threshold}) =>
            Object.fromEntries(Object.entries(WEIGHTS).map(([name, f]) => {
                const p = f(x, options);
                return [name, [p, multiModality(x, p, threshold), sparsity(x, p, threshold)]];
            }))))""",
        json.dumps(asked),
    )
    assert not chromium.get_log("browser")
    for row, answer in zip(asked, json.loads(answers), strict=True):
        x, options = torch.tensor(row["x"], dtype=torch.float64), row["options"]
        ranges, ts = (torch.tensor(options[key], dtype=torch.float64) for key in ("ranges", "ts"))
        expected = {
            "softmax": reweight.softmax(x),
            "temperature": reweight.softmax(x / options["temperature"]),
            "sparsemax": reweight.sparsemax(x),
            "entmax15": reweight.entmax15(x),
            "entmax": reweight.entmax(x, options["alpha"]),
            "evsoftmax": reweight.evsoftmax(x),
            "multimax": reweight.multimax(x, ranges, ts),
        }
        assert answer.keys() == expected.keys()
        for name, weights in expected.items():
            p, *measures = answer[name]
            exact = torch.tensor(p, dtype=torch.float64)
            torch.testing.assert_close(exact, weights, rtol=1e-6, atol=1e-9, msg=f"{name} of {row}")
            for shown, measure in zip(measures, (multi_modality, sparsity), strict=True):
                theirs = torch.tensor(math.nan if shown is None else shown, dtype=torch.float64)  # JSON has no NaN
                ours = measure(x, exact, row["threshold"])
                torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_drawings_move_and_fit(chromium, site, width):
    chromium.set_window_size(width, 900)
    chromium.get((site / "explained" / "trade-off.html").as_uri())
    assert chromium.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    handles = chromium.find_elements(By.CSS_SELECTOR, ".explore .handle")
    assert len(handles) == 1 + 4 + 12  # the ring, SegLU's knees and the tokens' scores
    for handle in handles:
        before = handle.get_attribute("aria-valuetext") or handle.get_attribute("y")
        handle.send_keys(Keys.ARROW_UP, Keys.ARROW_RIGHT)
        assert (handle.get_attribute("aria-valuetext") or handle.get_attribute("y")) != before
    slider = chromium.find_element(By.CSS_SELECTOR, ".controls input")
    shown = chromium.find_element(By.CSS_SELECTOR, ".explore table").text
    slider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert chromium.find_element(By.CSS_SELECTOR, ".explore table").text != shown
    assert not chromium.get_log("browser")
