"""The system's own Chromium, without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver

# Debian's names and Google's; a runner without Debian's packages may have the latter.
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser that notes down every message and request."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    assert found is not None, "there is no Chromium; run 'make setup'"
    assert driver is not None, "there is no chromedriver; run 'make setup'"
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for argument in ("headless=new", "disable-dev-shm-usage", "disable-gpu", "no-first-run"):
        options.add_argument(f"--{argument}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's own does not work for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as opened:
        yield opened
