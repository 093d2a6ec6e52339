"""TLS that the gate ends: secrets arrive where they are bound to, and nowhere else.

The table of attacks in docs/security.md names these tests.
"""

from __future__ import annotations

import base64
import http.client
import json
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import gate_process
from tests.support.gate_process import everything, until
from tests.support.origins import DEADLINE, digest
from tests.support.tls_site import PUBLIC, Site, serving_tls
from tests.support.waiting import wait_for

SECRET = "sk-very-secret-0123456789"
OTHER = "another-secret-9876543210"
KEY = {"secret": "key", "hosts": ["api.test"], "header": "X-Api-Key: {}", "variable": "API_KEY"}
PLACE = {"secret": "key", "hosts": ["api.test"], "variable": "API_KEY"}
ELSEWHERE = {"secret": "other", "hosts": ["other.test"], "variable": "OTHER_KEY"}
WEBSOCKET = {"Connection": "Upgrade", "Upgrade": "websocket"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving_tls(tmp_path_factory.mktemp("site")) as running:
        running.gate.call("secret.set", name="key", value=SECRET)
        running.gate.call("secret.set", name="other", value=OTHER)
        yield running


@pytest.fixture(autouse=True)
def unharmed(site: Site) -> Iterator[None]:
    """Before each test the session is as it was; after it no connection is left, and no value of
    a secret is in the log or the audit log."""
    site.open("blue", "api.test", "other.test", bind=[KEY, ELSEWHERE])
    site.seen.clear()
    site.connections = 0
    yield
    wait_for(lambda: not any(site.gate.call("status").values()))
    assert "Traceback" not in site.gate.log.read_text()
    files = [site.gate.log, *site.gate.paths.audit.iterdir()]
    for file in files:
        assert SECRET.encode() not in file.read_bytes()
        assert OTHER.encode() not in file.read_bytes()


def headers(report: dict[str, Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in report["headers"]}


# --- the secret arrives


def test_a_header_is_written_and_the_session_has_a_placeholder(site: Site) -> None:
    placeholder = site.placeholder()
    status, report = site.get("/v1", headers={"X-Api-Key": placeholder})
    assert status == 200
    assert headers(report)["x-api-key"] == SECRET
    assert placeholder not in json.dumps(report)
    assert SECRET not in placeholder


def test_a_header_is_written_for_who_sends_none_or_another(site: Site) -> None:
    assert headers(site.get()[1])["x-api-key"] == SECRET
    report = site.get(headers={"x-api_key": "mine", "X-API-KEY": "mine"})[1]
    assert [value for _, value in report["headers"]].count("mine") == 0


def test_basic_is_written(site: Site) -> None:
    site.open("blue", "api.test", bind=[{"secret": "key", "hosts": ["api.test"], "basic": "me"}])
    sent = headers(site.get()[1])["authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == f"me:{SECRET}".encode()


def test_a_parameter_is_written(site: Site) -> None:
    site.open("blue", "api.test", bind=[{"secret": "key", "hosts": ["api.test"], "query": "k"}])
    line = site.get("/v1?k=mine&a=1&%6B=mine")[1]["line"]
    assert line == f"GET /v1?a=1&k={SECRET} HTTP/1.1"


def test_a_placeholder_is_replaced_where_it_stands(site: Site) -> None:
    site.open("blue", "api.test", bind=[PLACE])
    word = site.placeholder()
    pair = base64.b64encode(f"user:{word}".encode()).decode()
    sent = {"Authorization": f"Basic {pair}", "X-Other": f"Token {word}; {word}"}
    report = site.get(f"/v1/{word}?key={word}", headers=sent)[1]
    # Not in the path, which servers repeat.
    assert report["line"] == f"GET /v1/{word}?key={SECRET} HTTP/1.1"
    got = headers(report)
    assert got["x-other"] == f"Token {SECRET}; {SECRET}"
    assert base64.b64decode(got["authorization"][6:]) == f"user:{SECRET}".encode()
    assert SECRET not in json.dumps(site.get()[1])  # nothing stands there


def test_a_secret_is_changed_without_a_restart(site: Site) -> None:
    with site.client() as client:
        for value in (SECRET, "rotated-0123456789", SECRET):
            site.gate.call("secret.set", name="key", value=value)
            client.request("GET", "/")
            assert headers(json.loads(client.getresponse().read()))["x-api-key"] == value


def test_without_its_secret_a_request_is_refused(site: Site) -> None:
    bound = {"secret": "none", "hosts": ["api.test"], "header": "X-Api-Key: {}"}
    site.open("blue", "api.test", bind=[bound])
    status, said = site.get()
    assert status == 403
    assert "serai secret set none" in said["reason"]
    assert site.seen == []


def test_the_audit_log_has_the_name_and_not_the_query(site: Site) -> None:
    site.get("/v1/things?token=abc", method="PUT", body=b"x" * 10)
    entry = site.decisions(host="api.test")[-1]
    assert (entry["method"], entry["path"], entry["tls"]) == ("PUT", "/v1/things", "ended")
    assert (entry["secret"], entry["allowed"]) == ("key", True)

    def ends() -> list[dict[str, Any]]:
        ended = site.gate.entries(event="closed", host="api.test")
        return [each for each in ended if each["seq"] > entry["seq"]]

    wait_for(ends)
    assert (ends()[0]["status"], ends()[0]["sent"]) == (200, 10)


def test_a_placeholder_and_the_roots_are_the_same_after_a_restart(tmp_path: Path) -> None:
    with gate_process.gate() as gate:
        site = Site(gate, tmp_path)
        site.open("blue", "api.test", bind=[KEY])
        bundle = gate.paths.certificates("blue") / "ca.pem"
        key = ["/usr/bin/openssl", "x509", "-noout", "-pubkey", "-in", str(bundle)]
        before = site.placeholder(), subprocess.check_output(key)
        for number in (signal.SIGTERM, signal.SIGKILL):
            gate.restart(number)
            assert (site.placeholder(), subprocess.check_output(key)) == before


def test_no_error_quotes_a_secret(site: Site) -> None:
    """Neither what a server sends back, nor what cannot be sent: the log is looked at, too."""
    with site.tls() as tls:
        tls.sendall(b"GET /illegal HTTP/1.1\r\nHost: api.test\r\n\r\n")
        said = everything(tls)
    assert said.startswith(b"HTTP/1.1 502 ")
    assert b"illegal header line" in said
    assert SECRET.encode() not in said
    assert SECRET in json.dumps(site.seen)


# --- what HTTP does


def test_a_connection_is_kept_on_both_sides(site: Site) -> None:
    with site.client() as client:
        for body in (None, b"abc", None):
            client.request("POST" if body else "GET", "/", body)
            report = json.loads(client.getresponse().read())
            assert report["digest"] == digest(body or b"")
    assert site.connections == 1


@pytest.mark.parametrize("path", ["/close", "/more"])
def test_a_connection_is_not_used_again_after_what_ends_it_or_is_odd(site: Site, path: str) -> None:
    with site.client() as client:
        client.request("GET", path)
        assert client.getresponse().read() == b"{}"
    with site.client() as client:
        client.request("GET", "/big?5")
        assert client.getresponse().read() == bytes(5)
    assert site.connections == 2


def test_an_answer_that_is_cut_short_does_not_look_whole(site: Site) -> None:
    with site.client() as client:
        client.request("GET", "/cut")
        with pytest.raises((http.client.IncompleteRead, OSError)):
            client.getresponse().read()


def test_events_come_one_by_one(site: Site) -> None:
    with site.client() as client:
        client.request("GET", "/events")
        answer = client.getresponse()
        for _ in range(3):
            site.turns.release()
            assert answer.read1(100) == b"data: 1\n\n"
        answer.close()
    site.turns.release(2)  # of these the gate learns that the client is gone


def test_a_websocket(site: Site) -> None:
    with site.tls() as tls:
        tls.sendall(b"GET /socket HTTP/1.1\r\nHost: api.test\r\n" + _lines(WEBSOCKET))
        assert b" 101 " in _head(tls)
        for text in (b"hello", b"x" * 300_000):
            tls.sendall(text)
            assert _exactly(tls, len(text)) == text
    assert headers(site.seen[-1])["x-api-key"] == SECRET


def test_a_body_is_awaited_and_sent(site: Site) -> None:
    with site.tls() as tls:
        tls.sendall(
            b"POST / HTTP/1.1\r\nHost: api.test\r\nExpect: 100-continue\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        assert _head(tls).startswith(b"HTTP/1.1 100 ")
        tls.sendall(b"3\r\nabc\r\n0\r\nX-Trailer: dropped\r\n\r\n")
        assert b" 200 " in _head(tls)
    assert site.seen[-1]["digest"] == digest(b"abc")


def test_large_bodies_go_both_ways_in_little_memory(site: Site) -> None:
    size, before = 192 << 20, site.gate_rss()
    with site.client() as client:
        pieces = (bytes(1 << 20) for _ in range(size >> 20))
        client.request("PUT", "/", pieces, {"Content-Length": str(size)})
        assert json.loads(client.getresponse().read())["digest"] == digest(bytes(size))
        client.request("GET", f"/big?{size}")
        answer, left = client.getresponse(), size
        while data := answer.read(1 << 20):
            left -= len(data)
    assert left == 0
    assert site.gate_rss() - before < 24 << 20


def test_http_2_is_answered_with_1_1(site: Site) -> None:
    with site.tls(context=site.context("blue", "h2", "http/1.1")) as tls:
        assert tls.selected_alpn_protocol() == "http/1.1"
        assert tls.version() in ("TLSv1.2", "TLSv1.3")


def test_by_socks_it_is_the_same(site: Site) -> None:
    with site.gate.connect("blue", "socks") as sock:
        sock.sendall(b"\x05\x01\x00")
        assert sock.recv(2) == b"\x05\x00"
        sock.sendall(b"\x05\x01\x00\x03\x08api.test\x01\xbb")
        assert sock.recv(10)[1] == 0
        with site.context("blue").wrap_socket(sock, server_hostname="api.test") as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
            assert b" 200 " in _head(tls)
    assert headers(site.seen[-1])["x-api-key"] == SECRET


# --- the secret goes nowhere else


def test_a_placeholder_goes_to_no_other_host(site: Site) -> None:
    status, said = site.get(place="other.test", headers={"X-Key": site.placeholder()})
    assert status == 403
    assert "key is not for other.test" in said["reason"]
    assert site.seen == []
    entry = site.decisions(host="other.test")[-1]
    assert (entry["allowed"], entry["rule"]) == (False, "secret key")
    assert "is not for other.test" in entry["error"]


@pytest.mark.parametrize("how", ["header", "basic", "path", "encoded"])
def test_another_session_s_placeholder_is_refused(site: Site, how: str) -> None:
    site.open("red", "api.test", bind=[PLACE], uid=70001)
    word = site.placeholder(session="red")
    assert word != site.placeholder()
    path, sent = "/", {}
    if how == "header":
        sent = {"X-Api-Key": word}
    elif how == "basic":
        sent = {"Authorization": "Basic " + base64.b64encode(f"a:{word}".encode()).decode()}
    else:
        path = f"/{word if how == 'path' else word.replace('-', '%2d')}"
    assert site.get(path, headers=sent)[0] == 403
    assert site.seen == []


def test_there_is_no_way_down_to_http(site: Site) -> None:
    for host, sent in (("api.test", ""), ("other.test", f"X-Key: {site.placeholder()}\r\n")):
        answer = site.gate.ask(
            "blue", f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{sent}\r\n".encode()
        )
        assert answer.startswith(b"HTTP/1.1 403 "), answer
    assert site.seen == []


def test_a_redirect_takes_no_secret_along(site: Site) -> None:
    with site.client() as client:
        client.request("GET", "/redirect", headers={"X-Api-Key": site.placeholder()})
        answer = client.getresponse()
        assert answer.headers["Location"] == "https://other.test/there"
    site.open("blue", "api.test", "other.test", bind=[KEY])
    # Not bound there: TLS is the client's own, to the origin itself.
    trusted = ssl.create_default_context(cafile=str(site.folder / "ca.pem"))
    sent = {"X-Api-Key": site.placeholder()}
    report = site.get("/there", place="other.test", context=trusted, headers=sent)[1]
    assert headers(report)["x-api-key"] == site.placeholder()


def test_by_address_there_is_no_secret(site: Site) -> None:
    site.open("blue", "api.test", PUBLIC, bind=[KEY])
    trusted = ssl.create_default_context(cafile=str(site.folder / "ca.pem"))
    status, report = site.get(place=f"{PUBLIC}:443", name="api.test", context=trusted)
    assert status == 200
    assert "x-api-key" not in headers(report)


def test_the_name_in_tls_is_the_tunnel_s(site: Site) -> None:
    context = site.context("blue")
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match="unrecognized"):
        site.tls("api.test", name="other.test", context=context)
    assert site.seen == []


REFUSED_INSIDE = {
    "another host": b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: api.test\r\nHost: other.test\r\n\r\n",
    "an absolute URI": b"GET https://other.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "its own absolute URI": b"GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "an authority as path": b"GET //other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n",
    "CONNECT": b"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n",
    "both lengths": b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "a bare line feed": b"GET / HTTP/1.1\r\nHost: api.test\nX: y\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("request_", REFUSED_INSIDE.values(), ids=REFUSED_INSIDE.keys())
def test_what_can_be_read_in_two_ways_is_refused(site: Site, request_: bytes) -> None:
    with site.tls() as tls:
        tls.sendall(request_)
        assert _head(tls).startswith(b"HTTP/1.1 400 ")
    assert site.seen == []


def test_a_body_is_no_second_request(site: Site) -> None:
    hidden = b"GET /hidden HTTP/1.1\r\nHost: api.test\r\n\r\n"
    with site.client() as client:
        client.request("GET", "/first", hidden)
        client.getresponse().read()
        client.request("GET", "/second")
        client.getresponse().read()
    assert [each["line"].split(" ")[1] for each in site.seen] == ["/first", "/second"]
    # And not on the same connection, where a server might have read the body so.
    assert site.connections == 2
    # A second one behind it is a request of its own: judged, and with the secret.
    with site.tls() as tls:
        tls.sendall(b"GET /a HTTP/1.1\r\nHost: api.test\r\n\r\nGET /b HTTP/1.1\r\n")
        assert b" 200 " in _head(tls)
        tls.sendall(b"Host: other.test\r\n\r\n")
        assert b"HTTP/1.1 400 " in everything(tls)
    assert [each["line"].split(" ")[1] for each in site.seen] == ["/first", "/second", "/a"]


@pytest.mark.parametrize("host", ["foreign.test", "git.test"])
def test_an_origin_must_be_who_it_says(site: Site, host: str) -> None:
    bound = {"secret": "key", "hosts": [host], "header": "X-Api-Key: {}"}
    site.open("blue", host, bind=[bound])
    if host == "git.test":  # a good one, as a check of the test
        assert headers(site.get(place=host)[1])["x-api-key"] == SECRET
        return
    with site.client(host) as client:
        client.request("GET", "/")
        answer = client.getresponse()
        assert answer.status == 502
        assert b"certificate verify failed" in answer.read()
    assert site.seen == []


@pytest.mark.parametrize("method", ["TRACE", "TRACK"])
def test_nobody_asks_for_the_request_back(site: Site, method: str) -> None:
    assert site.get(method=method)[0] == 403
    assert site.seen == []


def test_a_host_that_is_never_ended_stays_a_tunnel(site: Site) -> None:
    bound = {"secret": "key", "hosts": ["pinned.test"], "header": "X-Api-Key: {}"}
    site.open("blue", "pinned.test", bind=[bound])
    trusted = ssl.create_default_context(cafile=str(site.folder / "ca.pem"))
    report = site.get(place="pinned.test", context=trusted)[1]
    assert "x-api-key" not in headers(report)
    site.open("blue", "pinned.test GET /**")
    answer = site.gate.ask("blue", b"CONNECT pinned.test:443 HTTP/1.1\r\nHost: pinned.test\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 "), answer


def test_our_root_is_for_the_hosts_that_are_ended_alone(site: Site) -> None:
    with pytest.raises(ssl.SSLError, match="verify failed"):
        site.tls("api.test", name="api.test", context=site.context("none-such"))
    site.open("red", "other.test", bind=[ELSEWHERE], uid=70001)
    # The other session's root has the same key, and does not permit this host.
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        site.tls("api.test", context=site.context("red"))
    site.open("red", uid=70001)
    assert not (site.gate.paths.certificates("red") / "bundle.pem").exists()


def test_a_client_that_does_not_know_us_is_noted(site: Site) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        site.tls("api.test", context=ssl.create_default_context())
    wait_for(lambda: site.decisions(rule="TLS") != [])
    assert site.decisions(rule="TLS")[-1]["allowed"] is False


# --- rules by method and path


def test_a_request_is_judged_before_anything_is_sent(site: Site) -> None:
    site.open("blue", "api.test GET /repos/**", "git.test git-fetch /org/*")
    assert site.get("/repos/a/b")[0] == 200
    status, said = site.get("/repos/a", method="POST", body=b"x")
    assert status == 403
    assert said["ask"] == "serai policy allow blue 'api.test:443 POST /repos/a'"
    assert site.get("/user")[0] == 403
    assert len(site.seen) == 1
    assert site.get("/org/a/info/refs?service=git-upload-pack", place="git.test")[0] == 200
    for path in ("/org/a/info/refs?service=git-receive-pack", "/org/a/git-receive-pack"):
        method = "GET" if "?" in path else "POST"
        assert site.get(path, place="git.test", method=method)[0] == 403
    entry = site.decisions(host="api.test", method="POST")[-1]
    assert (entry["allowed"], entry["path"]) == (False, "/repos/a")


def test_the_next_request_on_a_connection_is_judged_too(site: Site) -> None:
    site.open("blue", "api.test", deny=["api.test DELETE /**"])
    with site.client() as client:
        client.request("GET", "/thing")
        assert client.getresponse().read()
        client.request("DELETE", "/thing")
        assert client.getresponse().status == 403
    assert len(site.seen) == 1


@pytest.mark.parametrize(
    "path", ["/repos/../user", "/repos/%2e%2e/user", "/repos//x", "/repos/%2Fx"]
)
def test_a_path_with_two_readings_is_denied(site: Site, path: str) -> None:
    site.open("blue", "api.test GET /repos/**")
    assert site.get(path)[0] == 403
    assert site.seen == []


def test_a_method_cannot_be_changed_by_a_header(site: Site) -> None:
    site.open("blue", "api.test POST /**")
    report = site.get("/", method="POST", headers={"X-HTTP-Method-Override": "DELETE"})[1]
    assert "x-http-method-override" not in headers(report)


def test_plain_requests_are_judged_alike(site: Site) -> None:
    site.open("blue", "other.test GET /ok")
    for path, status in (("/ok", b"200"), ("/not", b"403")):
        answer = site.gate.ask(
            "blue",
            f"GET http://other.test{path} HTTP/1.1\r\nHost: other.test\r\n"
            "Connection: close\r\n\r\n".encode(),
        )
        assert answer[9:12] == status, answer
    assert len(site.seen) == 1


def test_a_tunnel_is_cut_where_its_requests_must_be_seen_now(site: Site) -> None:
    site.open("blue", "other.test")
    with site.gate.tunnel("blue", "other.test:443") as sock:
        policy = {"allow": ["other.test"], "deny": ["other.test POST /**"]}
        assert site.gate.call("change", name="blue", policy=policy, cut=True) == {"cut": 1}
        assert sock.recv(1) == b""


def _lines(sent: dict[str, str]) -> bytes:
    return (
        "".join(f"{name}: {value}\r\n" for name, value in {**sent, "": ""}.items() if name).encode()
        + b"\r\n"
    )


def _head(tls: ssl.SSLSocket) -> bytes:
    return until(tls, b"\r\n\r\n")


def _exactly(tls: ssl.SSLSocket, size: int) -> bytes:
    tls.settimeout(DEADLINE)
    got = b""
    while len(got) < size:
        data = tls.recv(size - len(got))
        assert data, f"hung up after {len(got)} bytes"
        got += data
    return got
