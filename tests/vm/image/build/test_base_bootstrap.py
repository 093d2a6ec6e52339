"""A bootstrap that fails or is stopped half-way: one clear error, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serai.image.build import base_bootstrap
from serai.image.definition.definition import load
from serai.image.errors import BuildError
from serai.image.settings import Settings

SETTINGS = Settings.of({})
DEADLINE = 120  # seconds
PACKAGES = "".join(
    f"Package: {name}\nEssential: yes\nPriority: required\nVersion: 1\nArchitecture: all\n"
    f"Maintainer: nobody\nDescription: a test\nFilename: ./{name}.deb\nSize: 1000\n"
    f"SHA256: {'0' * 64}\n\n"
    for name in ("apt", "base-files", "dash")
)


class Mirror(ThreadingHTTPServer):
    """Serves an index of packages; what happens to the packages themselves is ``fate``."""

    def __init__(self, fate: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fate = fate
        self.asked = threading.Event()
        self.released = threading.Event()

    @property
    def line(self) -> str:
        return f"deb [trusted=yes] http://127.0.0.1:{self.server_port} ./"


class _Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        if self.path.endswith("/Packages"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(PACKAGES)))
            self.end_headers()
            self.wfile.write(PACKAGES.encode())
        elif not self.path.endswith(".deb"):
            self.send_error(404)
        else:
            self.server.asked.set()
            if self.server.fate == "hang":
                self.server.released.wait(DEADLINE)
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(request: pytest.FixtureRequest) -> Iterator[Mirror]:
    server = Mirror(request.param)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("mirror", ["die"], indirect=True)
def test_a_mirror_that_dies_half_way_is_one_clear_error(mirror: Mirror, tmp_path: Path) -> None:
    image = load(SETTINGS, "debian-12-amd64", [f'base.mirror="{mirror.line}"'])
    with pytest.raises(BuildError) as raised:
        base_bootstrap.make(image, SETTINGS, tmp_path / "disk.qcow2", log=tmp_path / "log")
    assert f"http://127.0.0.1:{mirror.server_port}" in raised.value.message
    assert "cannot be used" in raised.value.message
    assert "SERAI_MIRROR" in raised.value.hint
    assert raised.value.log == tmp_path / "log"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize("mirror", ["hang"], indirect=True)
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_a_bootstrap_that_is_stopped_leaves_no_process(
    mirror: Mirror, tmp_path: Path, signal_number: signal.Signals
) -> None:
    """After Ctrl-C also no file; kill -9 cannot be answered, but the kernel ends the children."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from serai.image.build import base_bootstrap\n"
        "from serai.image.definition.definition import load\n"
        "from serai.image.settings import Settings\n"
        "folder, line = Path(sys.argv[1]), sys.argv[2]\n"
        "image = load(Settings.of({}), 'debian-12-amd64', [f'base.mirror=\"{line}\"'])\n"
        "base_bootstrap.make(image, Settings.of({}), folder / 'disk.qcow2', log=folder / 'log')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), mirror.line],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            assert mirror.asked.wait(DEADLINE), (tmp_path / "log").read_text()
            assert _processes(tmp_path)
            process.send_signal(signal_number)
            process.wait(DEADLINE)
        finally:
            process.kill()
    _until(lambda: not _processes(tmp_path))
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    if signal_number is signal.SIGINT:
        assert [path.name for path in tmp_path.iterdir()] == ["log"]


def _processes(folder: Path) -> list[str]:
    """The command lines, of other processes, that name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(folder) in words:
                found.append(words.replace("\0", " "))
    return found


def _until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
