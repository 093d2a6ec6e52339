"""docs/serai-dashboard.html in the system's Chromium, at a server that answers as Prometheus."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from tests.conftest import ROOT
from tests.support.browser import chromium
from tests.support.waiting import wait_for

HOSTILE = "<img src=x onerror=alert(1)>"
LABELS = ("instance", "session", "service", "state", "version", "check")


@contextmanager
def prometheus() -> Iterator[tuple[str, list[str]]]:
    """Its address, and the queries that it was asked. The pool's go wrong."""
    queries: list[str] = []

    def said(path: str, asked: dict[str, str]) -> object:
        if path.endswith("/label/instance/values"):
            return {"status": "success", "data": ["vm.1", HOSTILE]}
        queries.append(asked["query"])
        if "serai_pool" in asked["query"]:
            return {"status": "error", "error": f"no {HOSTILE}"}
        series: dict[str, object] = {"metric": dict.fromkeys(LABELS, HOSTILE)}
        if path.endswith("_range"):
            start, step = int(asked["start"]), int(asked["step"])
            times = [start + step * turn for turn in range(8) if turn != 4]
            series["values"] = [[time, str(time - start)] for time in times]
        else:
            series["value"] = [0, "7"]
        return {"status": "success", "data": {"result": [series]}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path.startswith("/user/"):
                content = (ROOT / "docs" / parts.path[len("/user/") :]).read_bytes()
            else:
                content = json.dumps(said(parts.path, dict(parse_qsl(parts.query)))).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/user/serai-dashboard.html", queries
        finally:
            server.shutdown()


def test_every_panel_is_drawn_and_what_sessions_are_called_is_text() -> None:
    panels = json.loads((ROOT / "docs/serai-dashboard.json").read_text())["panels"]
    titles = [panel["title"] for panel in panels if panel["type"] != "row"]
    with prometheus() as (url, queries), chromium() as page:
        # It asks again each half a minute: not here, however long this takes.
        never = {"source": "window.setInterval = () => 0"}
        page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", never)
        page.get(url)
        wait_for(lambda: "as of" in page.find_element(By.ID, "state").text, 30)
        sections = page.find_elements(By.TAG_NAME, "section")
        assert [each.find_element(By.TAG_NAME, "h3").text for each in sections] == titles
        drawn = {title: each.text for title, each in zip(titles, sections, strict=True)}
        assert f"no {HOSTILE}" in drawn.pop("Sessions held ready")
        assert "healthy\n7" in drawn.pop("VMs")
        assert [title for title, text in drawn.items() if HOSTILE not in text] == []
        assert page.find_elements(By.TAG_NAME, "img") == []
        line = page.find_element(By.CSS_SELECTOR, "path").get_attribute("d") or ""
        assert line.count("M") == 2, "a gap in the values is a gap in the line"

        queries.clear()
        Select(page.find_element(By.ID, "vm")).select_by_visible_text("vm.1")
        wait_for(lambda: len(queries) >= len(titles), 30)
        assert all(r'instance=~"vm\\.1"' in query for query in queries)
        assert page.get_log("browser") == []  # type: ignore[no-untyped-call]
