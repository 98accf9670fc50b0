# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Headless browser for the tests: Debian's Chromium, driven by selenium."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PACKAGES = "chromium", "chromium-driver"


def programs():
    """Return the paths of the browser and its driver; missing programs are left out."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    return browser, shutil.which("chromedriver")


def install():
    """Install the browser from the system's packages; return the reason of a failure, or ""."""
    apt = shutil.which("apt-get")
    if apt is None:
        return "there is no apt-get to install them by"
    if os.geteuid() != 0:
        return "only root may install them"
    for command in ([apt, "update"], [apt, "install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            return f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}"
    return ""


@pytest.fixture(scope="session")
def chromium():
    """Return the paths of the browser and its driver."""
    if not all(programs()):
        reason = install()
        if not all(programs()):
            pytest.skip(f"chromium and chromedriver are not installed: {reason or 'no idea why'}")
    return programs()


class Browser:
    """Browser with one page."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, *, width=1200, height=900, dark=False):
        """Open a file on a screen of a given width, in light or dark colours."""
        run = self.driver.execute_cdp_cmd
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        run("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        run("Emulation.setEmulatedMedia", {"features": [scheme]})
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(Path(path).absolute().as_uri())
        return self

    def __call__(self, script, *arguments):
        """Return the result of a script."""
        return self.driver.execute_script(f"return ({script})", *arguments)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        return self("document.querySelector(arguments[0]).textContent", selector)

    def press(self, *keys):
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    @property
    def focused(self):
        return self.driver.switch_to.active_element

    @property
    def console(self):
        """Return the messages of the console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    @property
    def requests(self):
        """Return the requested addresses, without pictures within the page."""
        messages = (
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        )
        urls = [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]


@pytest.fixture(scope="session")
def session(chromium, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = chromium[0]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=chromium[1])
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(60)
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(session):
    """Return a browser with scripts enabled."""
    yield session
    session.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
