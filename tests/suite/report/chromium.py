"""A page open in headless Chromium; the fixture ``browser`` is in conftest.py."""

import json
import shutil
from urllib.parse import quote_plus

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
IN_CHROMIUM = [
    pytest.mark.xdist_group("chromium"),
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no Chromium here: apt-get install chromium chromium-driver",
    ),
]


class Browser:
    """An open page; methods that look for elements take CSS selectors."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, address, drawn=None):
        """Open an address and wait for ``drawn``, or for the first curve if it is None."""
        self.driver.get("about:blank")  # else a new fragment of the same page would load nothing
        self.driver.get_log("browser"), self.driver.get_log("performance")
        self.driver.get(address)
        curve = "return performance.getEntriesByName('first-curve').length"
        self.wait(lambda: self.all(drawn) if drawn else self.run(curve))

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition):
        return WebDriverWait(self.driver, 30, 0.05).until(lambda _: condition())

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def click(self, selector):
        """Click by script, whatever is under the mouse; other tests use the mouse."""
        self.run("document.querySelector(arguments[0]).click()", selector)

    def choose(self, name, value, in_address=None):
        """Choose an option of a select and wait until the page has taken it.

        The address then contains ``in_address`` or, if that is None, the name and value.
        """
        Select(self.one(f'[name="{name}"]')).select_by_value(value)
        taken = in_address or f"{name}={quote_plus(value)}"
        self.wait(lambda: taken in self.run("return location.hash"))

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def size(self, width, height):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
