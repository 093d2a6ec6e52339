"""report.html in the system's own Chromium: no request, no error, keyboard, phone, both schemes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from serai.image.release.report import report
from serai.image.release.report.report import Component, Inputs
from tests.support.browser import chromium
from tests.support.reports import HOSTILE, an_inputs, hostile


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as opened:
        yield opened


def show(browser: webdriver.Chrome, folder: Path, inputs: Inputs, **media: str) -> Path:
    """Open the report of ``inputs``; ``media`` are features such as prefers_color_scheme."""
    for log in ("browser", "performance"):
        logged(browser, log)  # what was before
    features = [{"name": name.replace("_", "-"), "value": media[name]} for name in media]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    path = folder / "report.html"
    path.write_text(report.render(inputs), encoding="utf-8")
    browser.get(path.as_uri())
    return path


def logged(browser: webdriver.Chrome, name: str) -> list[dict[str, Any]]:
    """What is new in one of the browser's logs."""
    entries: list[dict[str, Any]] = browser.get_log(name)  # type: ignore[no-untyped-call]
    return entries


def requests(browser: webdriver.Chrome) -> list[str]:
    """The addresses of everything that the page asked for."""
    entries = [json.loads(entry["message"])["message"] for entry in logged(browser, "performance")]
    return [
        entry["params"]["request"]["url"]
        for entry in entries
        if entry["method"] == "Network.requestWillBeSent"
    ]


def style(browser: webdriver.Chrome, selector: str, name: str) -> str:
    code = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    return str(browser.execute_script(code, selector, name))


def unfold(browser: webdriver.Chrome) -> None:
    """Open all that is folded away."""
    browser.execute_script("document.querySelectorAll('details').forEach((one) => one.open = true)")


def press(browser: webdriver.Chrome, *keys: str) -> WebElement:
    """Press keys where the focus is; returns where it is then."""
    for key in keys:
        browser.switch_to.active_element.send_keys(key)
    return browser.switch_to.active_element


def test_a_report_says_nothing_to_anybody_and_has_no_error(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    path = show(browser, tmp_path, an_inputs())
    unfold(browser)
    assert (
        browser.execute_script("return document.getElementById('boot-chart').naturalWidth") == 1017
    )
    asked = [url for url in requests(browser) if not url.startswith("data:")]
    assert asked == [path.as_uri()]
    assert logged(browser, "browser") == []


def test_hostile_names_are_texts(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = show(browser, tmp_path, hostile(HOSTILE))
    assert browser.execute_script("return window.hacked === undefined")
    assert [url for url in requests(browser) if not url.startswith("data:")] == [path.as_uri()]
    assert logged(browser, "browser") == []
    assert browser.title.startswith("</script></style>")
    scripts = (
        "return [document.scripts.length, document.querySelectorAll('main svg:not(.bar)').length]"
    )
    assert browser.execute_script(scripts) == [1, 0]


def test_even_a_script_that_got_in_could_do_nothing(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """The policy, seen from inside: no other script or style, no image, no connection."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    show(browser, tmp_path, an_inputs())
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = browser.execute_async_script(
            """
            const [url, done] = arguments;
            const violated = [];
            document.addEventListener("securitypolicyviolation", (event) => {
              violated.push(event.effectiveDirective);
              if (new Set(violated).size === 4) done([...new Set(violated)].sort());
            });
            const script = document.createElement("script");
            try { script.textContent = "window.hacked = 1"; } catch {}
            try { document.body.innerHTML += "<img src=x>"; } catch {}
            const style = document.createElement("style");
            style.textContent = "body { display: none }";
            document.head.append(style);
            const image = document.createElement("img");
            image.src = url;
            document.body.append(image);
            fetch(url).catch(() => {});
            """,
            f"http://127.0.0.1:{server.server_address[1]}/",
        )
        server.shutdown()
    assert found == ["connect-src", "img-src", "require-trusted-types-for", "style-src-elem"]
    assert asked == []
    assert style(browser, "body", "display") == "block"


def test_every_control_is_reached_by_the_tab_key(browser: webdriver.Chrome, tmp_path: Path) -> None:
    show(browser, tmp_path, an_inputs())
    unfold(browser)
    expected = browser.execute_script(
        """
        const all = document.querySelectorAll("a[href], button, input, summary, [tabindex='0']");
        return [...all].filter((one) => one.tabIndex >= 0);
        """
    )
    browser.execute_script(
        """
        window.reached = [];
        addEventListener("focusin", ({ target }) => {
          const visible = getComputedStyle(target).outlineStyle === "solid";
          if (target.matches(":focus-visible") && visible) reached.push(target);
        });
        """
    )
    ActionChains(browser).send_keys(Keys.TAB * len(expected)).perform()
    assert browser.execute_script("return reached") == expected
    named = browser.execute_script(
        "return arguments[0].every((one) => (one.ariaLabel || one.labels?.[0]?.textContent"
        " || one.textContent).trim())",
        expected,
    )
    assert named


def test_columns_are_sorted_by_keyboard(browser: webdriver.Chrome, tmp_path: Path) -> None:
    show(browser, tmp_path, an_inputs())
    table = browser.find_element(By.CSS_SELECTOR, "#checks table")
    header = table.find_element(By.XPATH, ".//th[.='Time']")
    browser.execute_script("arguments[0].focus()", header.find_element(By.TAG_NAME, "button"))

    def times() -> list[str]:
        return [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "td.number")]

    press(browser, Keys.ENTER)
    assert (times(), header.get_attribute("aria-sort")) == (["2.0 s", "3 min 13 s"], "ascending")
    press(browser, Keys.SPACE)
    assert (times(), header.get_attribute("aria-sort")) == (["3 min 13 s", "2.0 s"], "descending")
    said = browser.find_element(By.ID, "said").get_attribute("textContent")
    assert said == "Sorted by Time, descending"
    other = table.find_element(By.XPATH, ".//th[.='Check']")
    browser.execute_script("arguments[0].focus()", other.find_element(By.TAG_NAME, "button"))
    press(browser, Keys.ENTER)
    assert header.get_attribute("aria-sort") is None


def test_components_are_found_as_one_types(browser: webdriver.Chrome, tmp_path: Path) -> None:
    show(browser, tmp_path, an_inputs())
    browser.execute_script("document.getElementById('filter').focus()")

    def shown() -> list[str]:
        rows = browser.find_elements(By.CSS_SELECTOR, "#components-table tbody tr")
        return [
            row.find_element(By.TAG_NAME, "th").text.split()[0]
            for row in rows
            if row.is_displayed()
        ]

    told = browser.find_element(By.ID, "filter-told")
    assert told.get_attribute("role") == "status"
    press(browser, *"BASH deb")
    assert (shown(), told.text) == (["bash"], "1 of 3 components")
    press(browser, *"x")
    assert (shown(), told.text) == ([], "0 of 3 components")
    press(browser, *[Keys.BACKSPACE] * 9)
    assert (shown(), told.text) == (["linux-image", "libc6", "bash"], "3 components")


def test_maps_are_walked_by_arrow_keys(browser: webdriver.Chrome, tmp_path: Path) -> None:
    show(browser, tmp_path, an_inputs())
    first = browser.find_element(By.ID, "packages0")
    browser.execute_script("arguments[0].focus()", first)
    told = browser.find_element(By.ID, "packages-told")
    assert told.text == "linux-image, 300.0 MiB, 91.7 %"
    assert press(browser, Keys.ARROW_RIGHT).get_attribute("id") == "packages1"
    assert told.text.startswith("libc6, 20.0 MiB")
    assert press(browser, Keys.ARROW_DOWN).get_attribute("id") == "packages2"
    assert press(browser, Keys.ARROW_DOWN).get_attribute("id") == "packages2"  # the edge
    assert press(browser, Keys.HOME).get_attribute("id") == "packages0"
    last = press(browser, Keys.END)
    assert last.get_attribute("tabindex") == "0"
    assert first.get_attribute("tabindex") == "-1"
    assert press(browser, Keys.TAB).tag_name == "summary"


def test_what_is_folded_opens_and_the_boot_chart_fits_by_keyboard(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    show(browser, tmp_path, an_inputs())
    details = browser.find_element(By.CSS_SELECTOR, "#boot details")
    browser.execute_script("arguments[0].focus()", details.find_element(By.TAG_NAME, "summary"))
    press(browser, Keys.ENTER)
    assert details.get_attribute("open") is not None
    button = press(browser, Keys.TAB)
    assert button.text == "Fit to the width"
    chart = browser.find_element(By.ID, "boot-chart")
    before = chart.rect["width"]
    press(browser, Keys.SPACE)
    assert button.get_attribute("aria-pressed") == "true"
    assert chart.rect["width"] != before
    press(browser, Keys.ENTER)
    assert (button.get_attribute("aria-pressed"), chart.rect["width"]) == ("false", before)


def test_a_phone_needs_no_scrolling_sideways(browser: webdriver.Chrome, tmp_path: Path) -> None:
    long = "a" * 300
    given = an_inputs()
    long_ones = replace(
        given,
        manifest={**given.manifest, "version": long, "revision": long, "tools": {long: long}},
        verify={
            **given.verify,
            "checks": [{"name": long, "ok": True, "detail": long, "seconds": 1}],
        },
        components=[Component(long, long, long, long, f"pkg:deb/{long}")],
    )
    show(browser, tmp_path, long_ones)
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    unfold(browser)
    widths = "return [innerWidth, document.documentElement.scrollWidth]"
    assert browser.execute_script(widths) == [360, 360]
    outside = browser.execute_script(
        """
        const inner = (one) => one.closest(".scroll") || one.closest(".map, .unseen, .skip");
        return [...document.querySelectorAll("body *")].filter(
          (one) => !inner(one) && one.getBoundingClientRect().right > innerWidth + 1).length;
        """
    )
    assert outside == 0
    assert style(browser, "nav ol", "flexDirection") == "row"


def test_it_follows_the_preferred_scheme_and_motion(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    show(browser, tmp_path, an_inputs(), prefers_color_scheme="light")
    assert style(browser, "body", "backgroundColor") == "rgb(255, 255, 255)"
    assert style(browser, "html", "scrollBehavior") == "smooth"
    show(
        browser, tmp_path, an_inputs(), prefers_color_scheme="dark", prefers_reduced_motion="reduce"
    )
    assert style(browser, "body", "backgroundColor") == "rgb(22, 25, 28)"
    assert style(browser, "html", "scrollBehavior") == "auto"


def test_paper_shows_what_is_folded_away(browser: webdriver.Chrome, tmp_path: Path) -> None:
    show(browser, tmp_path, an_inputs())
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    folded = "return document.querySelectorAll('details:not([open])').length"
    assert browser.execute_script(folded) == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(folded) > 0
    printed: dict[str, Any] = browser.execute_cdp_cmd("Page.printToPDF", {})
    assert printed["data"].startswith("JVBERi0")  # "%PDF-"


def test_it_can_be_read_without_its_script(browser: webdriver.Chrome, tmp_path: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, tmp_path, an_inputs())
        rows = browser.find_elements(By.CSS_SELECTOR, "#components-table tbody tr")
        assert [row.is_displayed() for row in rows] == [True] * 3
        assert not browser.find_element(By.ID, "filter").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
