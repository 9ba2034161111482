"""The page in headless Chromium: what readers do with it, and that it uses no network."""

import json
import re
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from chromium import IN_CHROMIUM
from page_runs import NAUGHTY, make_run, make_runs
from selenium.webdriver import ActionChains, Keys

from multimax.suite.report.page.data import page_data, read_run
from multimax.suite.report.page.html import page
from multimax.suite.report.page.serve import Runs, server
from multimax.suite.runs import Run

pytestmark = IN_CHROMIUM

TABLE = {
    "name": "claims", "title": "Claims", "text": "Words about claims.", "columns": ["claim", "measured", "verdict"],
    "rows": [["a <b>claim</b>", "9.5", "reproduced"], ["another", "10.5", "not run"], ["a third", "", "inconclusive"]],
}  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a file: a page of 27 runs in three experiments."""
    folder = tmp_path_factory.mktemp("page")
    make_runs(folder / "runs", experiments=3)
    runs = [replace(read_run(Run(path)), folder=f"runs/{path.name}/") for path in sorted((folder / "runs").iterdir())]
    (folder / "index.html").write_bytes(page(page_data(runs, "Runs", "Made up.", [TABLE])))
    return (folder / "index.html").as_uri()


@pytest.fixture
def opened(browser, address):
    browser.size(1300, 1000)
    browser.open(address)
    ActionChains(browser.driver).move_to_element(browser.one("#title")).perform()  # off the plots
    return browser


def scale_of(browser, panel="made_0"):
    """The numbers on the x axis of a panel."""
    selector = f'[data-name="{panel}"] .axes text[text-anchor="middle"]'
    return [float(text) for text in browser.texts(selector)]


def test_opening_it_reports_no_error_and_fetches_nothing_else(opened, address):
    assert opened.texts(".panel h3") == ["made_0", "made_1", "made_2"]
    assert len(opened.all('[data-name="made_0"] .curve')) == 3
    assert opened.errors() == []
    assert {url for url in opened.requests() if not url.startswith(("data:", "about:"))} == {address}


def test_filters_choose_runs_and_are_in_the_address(opened, address):
    opened.click('[data-filter="task"] [data-value="deit"]')
    opened.click('[data-filter="function"] [data-value="softmax"]')
    assert opened.texts(".panel h3") == ["made_0"]
    assert len(opened.all(".line")) == 1
    assert opened.one("#counts").text.startswith("3 of 27 runs")
    assert len(opened.all("#table tbody tr")) == 1
    opened.click('[data-filter="seed"] [data-value="2"]')
    shared = opened.run("return location.hash")
    opened.open(address + shared)
    assert opened.one("#counts").text.startswith("1 of 27 runs")
    assert opened.one('[data-filter="seed"] [data-value="2"]').get_attribute("aria-pressed") == "true"
    opened.click("#clear")
    assert opened.one("#counts").text.startswith("27 runs")
    assert opened.run("return location.hash") == ""


def test_a_drag_zooms_and_a_double_click_shows_all(opened, address):
    plot = opened.one('[data-name="made_0"] .plot')
    everything = scale_of(opened)
    actions = ActionChains(opened.driver)
    actions.move_to_element_with_offset(plot, -60, 0).click_and_hold().move_by_offset(120, 0).release().perform()
    zoomed = scale_of(opened)
    assert everything[0] < zoomed[0] < zoomed[-1] < everything[-1]
    opened.open(address + opened.run("return location.hash"))
    assert scale_of(opened) == zoomed
    plot = opened.one('[data-name="made_0"] .plot')
    ActionChains(opened.driver).double_click(plot).perform()
    assert scale_of(opened) == everything


def test_the_wheel_zooms_a_plot_that_has_the_focus_and_scrolls_the_page_elsewhere(opened):
    plot = opened.one('[data-name="made_0"] .plot')
    everything = scale_of(opened)
    wheel = "return arguments[0].dispatchEvent(new WheelEvent('wheel', arguments[1]))"
    turn = {"deltaY": -200, "clientX": plot.rect["x"] + plot.rect["width"] / 2, "cancelable": True}
    assert opened.run(wheel, plot, turn)  # the plot does not take it: the page scrolls
    assert scale_of(opened) == everything
    ActionChains(opened.driver).click(plot).perform()
    assert not opened.run(wheel, plot, turn)
    zoomed = scale_of(opened)
    assert everything[0] < zoomed[0] < zoomed[-1] < everything[-1]
    assert not opened.run(wheel, plot, turn | {"deltaY": 400})
    assert scale_of(opened) == everything


def test_the_keyboard_reads_and_zooms_a_plot(opened):
    plot = opened.one('[data-name="made_0"] .plot')
    everything = scale_of(opened)
    opened.run("arguments[0].focus()", plot)
    plot.send_keys(Keys.ARROW_RIGHT)
    assert opened.one('[data-name="made_0"] .tip caption').text == "step 500"
    plot.send_keys(Keys.ARROW_RIGHT)
    assert opened.one('[data-name="made_0"] .tip caption').text == "step 1000"
    plot.send_keys("+")
    assert scale_of(opened) != everything
    plot.send_keys(Keys.ESCAPE)
    assert scale_of(opened) == everything


def test_hovering_tells_the_mean_and_the_spread_at_the_nearest_step(opened):
    plot = opened.one('[data-name="made_0"] .plot')
    ActionChains(opened.driver).move_to_element_with_offset(plot, int(plot.rect["width"] / 2) - 30, 0).perform()
    assert opened.one('[data-name="made_0"] .tip caption').text == "step 1000"
    rows = opened.texts('[data-name="made_0"] .tip tbody tr')
    # Softmax's seeds 0, 1 and 2 end at 50, 51 and 52, MultiMax's one higher and sparsemax's two.
    assert rows == [
        "sparsemax-softmax53.00052.00 – 54.00 (n=3)", "multimax-softmax52.00051.00 – 53.00 (n=3)",
        "softmax51.00050.00 – 52.00 (n=3)",
    ]  # fmt: skip
    opened.choose("spread", "sd")
    plot = opened.one('[data-name="made_0"] .plot')
    ActionChains(opened.driver).move_to_element_with_offset(plot, int(plot.rect["width"] / 2) - 31, 0).perform()
    assert opened.texts('[data-name="made_0"] .tip tbody tr')[2] == "softmax51.000± 1.0 (n=3)"
    assert "standard deviation" in opened.one("#curves-note").text


def test_curves_of_any_metric_over_epochs_and_time_on_logarithmic_axes(opened):
    opened.choose("metric", "train/loss")
    assert opened.texts('[data-name="made_0"] .metric') == ["train/loss"]
    opened.choose("x", "epoch")
    assert max(scale_of(opened)) == 10
    opened.choose("x", "time")  # 2 seconds a step
    assert 25 <= max(scale_of(opened)) <= 34
    opened.click('[name="logx"]')
    assert {2.0, 5.0, 10.0, 20.0} <= set(scale_of(opened))
    opened.click('[name="logy"]')
    assert opened.errors() == []
    opened.choose("spread", "runs")
    assert len(opened.all('[data-name="made_0"] .curve')) == 9


def roughness(path):
    """How far a curve goes up and down in all, as a multiple of its net change."""
    heights = [float(point.split(",")[1]) for point in re.split("[ML]", path.get_attribute("d"))[1:]]
    return sum(abs(b - a) for a, b in pairwise(heights)) / abs(heights[-1] - heights[0])


def test_smoothing_makes_curves_smoother(browser, tmp_path):
    run = make_run(tmp_path / "runs")
    lines = [
        {"step": step, "epoch": step / 100, "train/loss": 2 - step / 1000 + step % 20 / 10}
        for step in range(10, 990, 10)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "index.html").write_bytes(page(page_data([read_run(Run(run))], "Runs", "Made up.")))
    opened = browser
    opened.open((tmp_path / "index.html").as_uri() + "#metric=train/loss")
    path = ".curve"
    rough = roughness(opened.one(path))
    opened.one('[name="smooth"]').send_keys(Keys.END)
    opened.wait(lambda: "smooth=0.95" in opened.run("return location.hash"))
    assert roughness(opened.one(path)) < rough / 2


def test_tables_sort_by_number_and_by_word(opened, address):
    def column(number):
        return opened.texts(f"#table tbody td:nth-child({number})")

    def sort(key):
        opened.click(f'#table [data-column="{key}"]')

    sort("mean")
    means = [float(text) for text in column(4)]
    assert means == sorted(means, reverse=True)
    assert opened.one('#table th[aria-sort="descending"]').text.startswith("Mean")
    sort("mean")
    assert [float(text) for text in column(4)] == sorted(means)
    opened.click('[data-view="claims"]')
    sort("measured")
    assert column(3) == ["10.5", "9.5", ""]
    sort("measured")
    assert column(3) == ["9.5", "10.5", ""]  # empty cells stay last
    assert column(1)[0] == "a <b>claim</b>"
    shared = opened.run("return location.hash")
    opened.open(address + shared)
    assert column(3) == ["9.5", "10.5", ""]
    assert column(2)[0] == "✓ reproduced"
    find = opened.one("#find")
    find.send_keys("third")
    assert column(1) == ["a third"]


def test_the_details_of_a_run(opened, address):
    opened.click('[data-view="runs"]')
    opened.click("#table .open")
    name = opened.one("#details-title").text
    assert name in opened.run("return decodeURIComponent(location.hash)")
    command = opened.one("#details .command code").text
    assert command.startswith("python train.py task=deit scale=demo reweight=")
    assert "0" * 40 in opened.one("#details").text
    opened.run("arguments[0].focus()", opened.one("#details .close"))
    ActionChains(opened.driver).send_keys(Keys.ESCAPE).perform()
    opened.wait(lambda: not opened.run("return document.querySelector('#details').open"))
    assert "run=" not in opened.run("return location.hash")
    opened.open(f"{address}#run={name}")
    assert opened.one("#details-title").text == name


@pytest.mark.parametrize("view", ["means", "runs", "claims"])
def test_a_phone_shows_it_without_scrolling_sideways(opened, address, view):
    opened.size(360, 740)
    opened.open(f"{address}#view={view}")
    width = "return [document.documentElement.scrollWidth, innerWidth]"
    assert opened.run(width) == [360, 360]
    opened.run("document.querySelector('#filters').open = true")
    assert opened.run(width) == [360, 360]
    plot = opened.one('[data-name="made_0"] .plot')
    ActionChains(opened.driver).move_to_element(plot).perform()
    tip = opened.one('[data-name="made_0"] .tip').rect
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= 360
    assert opened.run(width) == [360, 360]


LUMINANCE = """
const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const luminance = (color) => {
  context.fillStyle = color;
  context.fillRect(0, 0, 1, 1);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$|transparent/.test(color)) return color;
  }
};
const low = [];
for (const element of document.querySelectorAll("body *")) {
  const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!text || !element.getClientRects().length || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
  const style = getComputedStyle(element);
  const own = luminance(element.closest("svg") ? style.fill : style.color);
  const [a, b] = [own, luminance(behind(element))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) low.push([element.outerHTML, (a + 0.05) / (b + 0.05)]);
}
return low;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(opened, address, scheme):
    """WCAG's level AA asks for a contrast of 4.5 for text of normal size."""
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
    try:
        opened.open(f"{address}#view=claims&task=deit")
        assert opened.run("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
        time.sleep(0.2)  # until transitions end
        assert opened.run(LUMINANCE) == []
    finally:
        opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_what_runs_are_called_stays_text(browser, tmp_path):
    run = make_run(tmp_path / "runs", "softmax", name="x", experiment=NAUGHTY, description=NAUGHTY)
    table = TABLE | {"rows": [[NAUGHTY, NAUGHTY, NAUGHTY]], "text": NAUGHTY, "title": NAUGHTY}
    naughty = replace(
        read_run(Run(run)), pictures=[(NAUGHTY, "javascript:document.title='taken'")], folder="javascript:alert(1)"
    )
    (tmp_path / "index.html").write_bytes(page(page_data([naughty], NAUGHTY, NAUGHTY, [table], problems=[NAUGHTY])))
    for view in ("means", "runs", "claims"):
        browser.open((tmp_path / "index.html").as_uri() + f"#view={view}&run=x&find=%3Cscript%3E")
        assert not browser.all('[href^="javascript"]')
        assert not browser.all("[onerror]")
        assert len(browser.all("script")) == 2
        assert browser.driver.title == f"MultiMax: {NAUGHTY.lower()}"
        assert browser.texts(".panel h3") == [NAUGHTY]


def test_a_served_page_shows_pictures_and_what_came_since(browser, tmp_path):
    run = make_run(tmp_path, "multimax", 0)
    (run / "analysis").mkdir()
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="9" height="9"/></svg>'
    (run / "analysis" / "attention.svg").write_text(picture)
    running = server(Runs([tmp_path]), 0)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        browser.open(f"http://localhost:{running.server_port}/")
        browser.run("document.querySelector('#pictures').scrollIntoView()")
        browser.wait(lambda: browser.run("return document.querySelector('#gallery img').naturalWidth") == 40)
        make_run(tmp_path, "softmax", 0, finished=False, steps=500)
        browser.driver.refresh()
        browser.wait(lambda: browser.one("#counts").text.startswith("2 runs"))
        assert browser.texts(".metric") == ["val/top1, higher is better"]
        browser.click('[data-filter="status"] [data-value="running"]')
        browser.click('[data-view="runs"]')
        assert "running at 500" in browser.one("#table tbody").text
        assert browser.errors() == []
    finally:
        running.shutdown()
        thread.join()
        running.server_close()
