from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

import pytest

from serai.common import tables
from serai.gate.policy.bindings import Binding, clash
from serai.gate.policy.hosts import Target


def binding(*hosts: str, **more: str) -> Binding:
    data = {"secret": "one", "hosts": list(hosts or ["api.test"]), **more}
    return tables.read(Binding, data)


@pytest.mark.parametrize(
    ("data", "canonical"),
    [
        ({"hosts": ["API.test.:443"]}, {"hosts": ["api.test"]}),
        ({"hosts": ["*.API.test:08443"]}, {"hosts": ["*.api.test:8443"]}),
        ({"hosts": ["m\u00fcnchen.example"]}, {"hosts": ["xn--mnchen-3ya.example"]}),
        ({"header": "X-Api-Key :  {} "}, {"header": "X-Api-Key: {}"}),
        ({"header": "authorization:Bearer {}"}, {"header": "authorization: Bearer {}"}),
        (
            {"basic": "x-access-token", "variable": "T"},
            {"basic": "x-access-token", "variable": "T"},
        ),
        ({"query": "api_key", "header": "", "basic": ""}, {"query": "api_key"}),
    ],
)
def test_a_binding_has_one_spelling(data: dict[str, Any], canonical: dict[str, Any]) -> None:
    found = tables.read(Binding, {"secret": "one", "hosts": ["api.test"], **data})
    assert found.as_dict() == {"secret": "one", "hosts": ["api.test"], **canonical}
    assert tables.read(Binding, found.as_dict()) == found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"secret": ""}, "secret: '' is not a name"),
        ({"secret": "One"}, "is not a name"),
        ({"secret": "a" * 64}, "is not a name"),
        ({"hosts": []}, "a secret and hosts"),
        ({"hosts": "api.test"}, "hosts must be a list"),
        ({"hosts": ["*"]}, "for some hosts, not for all"),
        ({"hosts": ["*.*"]}, "for some hosts, not for all"),
        ({"hosts": [""]}, "for some hosts, not for all"),
        ({"hosts": ["192.0.2.1"]}, "not for addresses"),
        ({"hosts": ["*.127.1"]}, "not for addresses"),
        ({"hosts": ["2001:db8::1"]}, "not for addresses"),
        ({"hosts": ["[::1]:443"]}, "not for addresses"),
        ({"hosts": ["api.test:0"]}, "is not a port"),
        ({"hosts": ["api.test:"]}, "is not a port"),
        ({"hosts": ["api.test/a"]}, "is not a host"),
        ({"hosts": ["https://api.test"]}, "is not a port"),
        ({"hosts": ["user@api.test"]}, "is not a host"),
        ({"header": "x-api-key"}, "is not a header"),
        ({"header": "x api: {}"}, "is not a header"),
        ({"header": ": {}"}, "is not a header"),
        ({"header": "x: "}, "must have {} once"),
        ({"header": "x: {} {}"}, "must have {} once"),
        ({"header": "x: {}\r\ny: z"}, "must have {} once"),
        ({"header": "x: \u00e4{}"}, "must have {} once"),
        ({"header": "x: {}" + "a" * 300}, "at most 256"),
        *(
            ({"header": f"{name}: {{}}"}, "cannot go into the header")
            for name in (
                "Host",
                "content-length",
                "Transfer_Encoding",
                "Connection",
                "Proxy-Authorization",
                "upgrade",
                "TE",
                "Trailer",
                "Expect",
                "Cookie2",
                "Sec-WebSocket-Key",
            )
        ),
        ({"basic": "a:b"}, "is not a user's name"),
        ({"basic": "a\n"}, "is not a user's name"),
        ({"query": "a=b"}, "is not a parameter's name"),
        ({"query": "a&b"}, "is not a parameter's name"),
        ({"header": "x: {}", "query": "a"}, "one place"),
        ({"header": "x: {}", "basic": "a"}, "one place"),
        ({"variable": "1A"}, "is not the name of a variable"),
        ({"variable": "A=B"}, "is not the name of a variable"),
        *(
            ({"variable": name}, "is not for secrets")
            for name in (
                "PATH",
                "HOME",
                "LD_PRELOAD",
                "HTTP_PROXY",
                "https_proxy",
                "no_proxy",
                "SSL_CERT_FILE",
                "NODE_OPTIONS",
                "NODE_EXTRA_CA_CERTS",
                "BASH_ENV",
                "PYTHONPATH",
                "GIT_SSH_COMMAND",
                "SERAI_SESSION",
                "PYTHONSTARTUP",
                "JAVA_TOOL_OPTIONS",
            )
        ),
        ({"port": 1}, "unknown key port"),
    ],
)
def test_what_is_no_binding_is_told(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        tables.read(Binding, {"secret": "one", "hosts": ["api.test"], **data})
    assert len(str(caught.value).splitlines()) == 1


def test_a_secret_is_for_its_hosts_and_their_ports() -> None:
    one = binding("api.test", "*.sub.test:8443")
    covered = [("api.test", 443), ("a.sub.test", 8443), ("a.b.sub.test", 8443)]
    others = [("api.test", 80), ("x.api.test", 443), ("sub.test", 8443), ("a.sub.test", 443)]
    others += [("xapi.test", 443), ("evilsub.test", 8443), ("api.test.evil", 443)]
    assert all(one.covers(Target(*each)) for each in covered)
    assert not any(one.covers(Target(*each)) for each in others)
    assert not one.covers(Target(ip_address("192.0.2.1"), 443))
    assert one.names("api.test")
    assert one.names("a.sub.test")
    assert not one.names("sub.test")
    assert not one.names(ip_address("192.0.2.1"))


BEARER = "Authorization: Bearer {}"


@pytest.mark.parametrize(
    ("one", "other", "problem"),
    [
        (binding(header="X-Key: {}"), binding(secret="two", header="x_key: a{}"), "x-key"),
        (binding(header=BEARER), binding(secret="two", basic="a"), "authorization"),
        (binding(basic="a"), binding(secret="two", basic="b"), "authorization"),
        (binding(query="k"), binding(secret="two", query="k"), "the parameter k"),
        (binding("*.test", query="k"), binding("a.b.test", query="k", secret="two"), "parameter"),
        (binding("*.test", query="k"), binding("*.b.test", query="k", secret="two"), "parameter"),
        (binding(variable="K"), binding("b.test", secret="two", variable="K"), "variable K"),
    ],
)
def test_two_that_write_the_same_are_told(one: Binding, other: Binding, problem: str) -> None:
    for many in ((one, other), (other, binding("x.test"), one)):
        said = clash(many)
        assert problem in said
        assert "one for" in said
        assert "two for" in said


@pytest.mark.parametrize(
    "other",
    [
        binding(header=BEARER),
        binding("other.test", secret="two", header=BEARER),
        binding("api.test:8443", secret="two", header=BEARER),
        binding("*.api.test", secret="two", header=BEARER),
        binding(secret="two", header="X-Key: {}"),
        binding(secret="two", query="authorization"),
        binding(secret="two", variable="K"),
    ],
)
def test_what_is_for_another_host_or_place_is_no_trouble(other: Binding) -> None:
    assert clash([binding(header=BEARER), other]) == ""
