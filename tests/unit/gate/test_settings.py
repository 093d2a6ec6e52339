from __future__ import annotations

from pathlib import Path

import pytest

from serai.common.errors import SeraiError
from serai.gate.policy.hosts import Target
from serai.gate.settings import Audit, Limits, Settings, Timeouts, Upstream, load

FULL = """
[limits]
connections = 10
header_bytes = 4096
denials_per_second = 5
denials_burst = 6
lookups = 2
[timeouts]
header = 0.5
dial = 2
idle = 3
half_closed = 4
total = 5.5
[audit]
file_size = "8K"
files = 3
[upstream]
kind = "socks5"
address = "PROXY.Example.:1080"
username = "serai"
password = "s3cret:word"
resolve = "gate"
"""


def written(folder: Path, text: str, mode: int = 0o640) -> Path:
    path = folder / "gate.toml"
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return path


def test_without_a_file_everything_has_a_default(tmp_path: Path) -> None:
    assert load(tmp_path / "none.toml") == Settings() == load(written(tmp_path, ""))
    assert Settings().limits == Limits(512, 65536, 50, 500, 8)
    assert Settings().timeouts == Timeouts(30, 15, 600, 60, 86400)
    assert Settings().audit == Audit(64 << 20, 16)
    assert Settings().upstream == Upstream("direct", "", "", "", "gate")
    assert Settings().upstream.endpoint is None


def test_everything_can_be_set(tmp_path: Path) -> None:
    assert load(written(tmp_path, FULL)) == Settings(
        Limits(10, 4096, 5, 6, 2),
        Timeouts(0.5, 2, 3, 4, 5.5),
        Audit(8192, 3),
        Upstream("socks5", "proxy.example:1080", "serai", "s3cret:word", "gate"),
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [('"4096"', 4096), ("4096", 4096), ('"64M"', 64 << 20), ('"1G"', 1 << 30), ('"1T"', 1 << 40)],
)
def test_a_size_is_bytes_or_a_text_with_a_unit(tmp_path: Path, text: str, size: int) -> None:
    assert load(written(tmp_path, f"audit.file_size = {text}")).audit.file_size == size


@pytest.mark.parametrize(
    ("address", "canonical", "endpoint"),
    [
        ("proxy.example:3128", "proxy.example:3128", Target("proxy.example", 3128)),
        ("[::ffff:192.0.2.7]:80", "192.0.2.7:80", None),
        ("[2001:DB8::1]:80", "[2001:db8::1]:80", None),
        ("/run/host/proxy.sock", "/run/host/proxy.sock", Path("/run/host/proxy.sock")),
    ],
)
def test_a_parent_is_a_host_and_port_or_a_socket(
    tmp_path: Path, address: str, canonical: str, endpoint: Target | Path | None
) -> None:
    found = load(written(tmp_path, f'[upstream]\nkind = "http"\naddress = "{address}"')).upstream
    assert found.address == canonical
    assert found.resolve == "parent"
    assert found.endpoint == endpoint or (endpoint is None and str(found.endpoint) == canonical)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limit.connections = 1", "unknown key limit; known are limits, timeouts, audit, upstream"),
        ("limits.conections = 1", "unknown key limits.conections"),
        ("limits = 1", "limits must be a table"),
        ("upstream = 'http://u:s3cret@proxy'", "upstream must be a table"),
        ("[[audit]]", "audit must be a table"),
        ("limits.connections = 0", "limits.connections must be 1..1048576, not 0"),
        ("limits.connections = -1", "limits.connections must be"),
        ("limits.connections = '10'", "limits.connections must be a whole number"),
        ("limits.connections = 10.0", "limits.connections must be a whole number"),
        ("limits.connections = true", "limits.connections must be a whole number"),
        ("limits.lookups = 0", "limits.lookups must be"),
        ("limits.header_bytes = 100", "limits.header_bytes must be"),
        ("limits.denials_per_second = 0", "limits.denials_per_second must be"),
        ("limits.denials_burst = 99999999", "limits.denials_burst must be"),
        ("timeouts.idle = 0", "timeouts.idle must be"),
        ("timeouts.idle = nan", "timeouts.idle must be"),
        ("timeouts.idle = inf", "timeouts.idle must be"),
        ("timeouts.idle = -1.5", "timeouts.idle must be"),
        ("timeouts.idle = '600'", "timeouts.idle must be a number"),
        ("timeouts.idle = false", "timeouts.idle must be a number"),
        ("timeouts.idle = 2024-01-01", "timeouts.idle must be a number"),
        ("audit.file_size = '64MB'", "is not bytes, or a text such as 64M"),
        ("audit.file_size = '-1'", "is not bytes, or a text such as 64M"),
        ("audit.file_size = ''", "is not bytes, or a text such as 64M"),
        ("audit.file_size = '\uff14\uff10\uff19\uff16'", "is not bytes, or a text such as 64M"),
        ("audit.file_size = 4095", "audit.file_size must be"),
        ("audit.file_size = '9999T'", "audit.file_size must be"),
        ("audit.files = 1", "audit.files must be"),
        ("upstream.kind = 'https'", "upstream.kind must be"),
        ("upstream.kind = 1", "upstream.kind must be a text"),
        ("upstream.address = 'a:1'", "no other key belongs"),
        ("upstream.resolve = 'parent'", "no other key belongs"),
        ("upstream.username = 'u'", "no other key belongs"),
        ("upstream.kind = 'http'", "upstream.address"),
        ("upstream = {kind = 'http', address = 'a'}", "upstream.address: "),
        ("upstream = {kind = 'http', address = 'a:0'}", "upstream.address: "),
        ("upstream = {kind = 'http', address = 'run/x.sock'}", "upstream.address: "),
        ("upstream = {kind = 'http', address = 'http://a:1'}", "upstream.address: "),
        ("upstream = {kind = 'http', address = 'u:s3cret@a:1'}", "upstream.address: "),
        (f"upstream = {{kind = 'http', address = '/{'x' * 107}'}}", "longer than 107 bytes"),
        ("upstream = {kind = 'http', address = 'a:1', resolve = 'me'}", "upstream.resolve must be"),
        ("upstream = {kind = 'http', address = 'a:1', password = 's3cret'}", "needs upstream.user"),
        ("upstream = {kind = 'http', address = 'a:1', username = 'u:v'}", "a colon"),
        ('upstream = {kind = "http", address = "a:1", username = "u\\r\\nX: y"}', "printable"),
        (
            'upstream = {kind = "http", address = "a:1", password = "s3cret\\u0000"}',
            "printable",
        ),
        (
            "upstream = {kind = 'http', address = 'a:1', username = 'u', password = 53}",
            "upstream.password must be a text",
        ),
        (
            f"upstream = {{kind = 'socks5', address = 'a:1', username = '{'u' * 256}'}}",
            "longer than",
        ),
        ("[limits", "cannot read"),
    ],
)
def test_bad_settings_are_told_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SeraiError) as caught:
        load(path)
    assert str(path) in caught.value.message
    assert message in caught.value.message
    assert "s3cret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_not_text_or_no_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "gate.toml", tmp_path):
        with pytest.raises(SeraiError, match="cannot read the gate's settings"):
            load(path)


def test_a_password_that_everybody_can_read_is_refused_and_never_shown(tmp_path: Path) -> None:
    with pytest.raises(SeraiError, match="everybody can read it") as caught:
        load(written(tmp_path, FULL, 0o644))
    assert "chmod 0640" in caught.value.hint
    found = load(written(tmp_path, FULL))
    assert "s3cret" not in repr(found)
    assert "s3cret" not in str(caught.value)
    assert load(written(tmp_path, FULL.replace("password", "#"), 0o644)).upstream.password == ""


@pytest.mark.parametrize("kind", ["direct", "socks5"])
def test_only_a_parent_that_speaks_http_can_be_told_who_asks(tmp_path: Path, kind: str) -> None:
    address = "" if kind == "direct" else "address = 'a.example:1'\n"
    text = f"[upstream]\nkind = '{kind}'\n{address}identity = true\n"
    with pytest.raises(SeraiError, match=r"upstream\.identity goes with"):
        load(written(tmp_path, text))
