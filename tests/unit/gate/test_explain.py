from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Any, cast

import pytest

from serai.common.errors import SeraiError
from serai.gate import explain, profiles
from serai.gate.allowance import Allowance
from serai.gate.audit.writer import Log
from serai.gate.connections.lookups import Lookups
from serai.gate.egress import Egress, Session
from serai.gate.explain import Question, question
from serai.gate.policy.hosts import Address, Target
from serai.gate.settings import Settings, Tls
from serai.gate.tls.ending import TlsEnding

KEY = {"secret": "key", "hosts": ["*.test"], "header": "X-Key: {}"}
API = Target("api.test", 443)


@pytest.mark.parametrize(
    ("text", "method", "meant"),
    [
        ("API.test", "", Question(API)),
        ("api.test:80", "", Question(Target("api.test", 80))),
        ("api.test", "POST", Question(API, "POST")),
        ("https://api.test", "", Question(API, "GET")),
        ("HTTPS://api.test/a?b=c#d", "", Question(API, "GET", "/a?b=c")),
        ("https://api.test?b=/c", "PUT", Question(API, "PUT", "/?b=/c")),
        ("http://api.test:81/a", "", Question(Target("api.test", 81), "GET", "/a", plain=True)),
    ],
)
def test_a_host_or_a_url_is_understood(text: str, method: str, meant: Question) -> None:
    assert question(text, method) == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://api.test", "begins with http:// or https://"),
        ("api.test/a", "is not a host"),
        ("https://me:secret@api.test/", "before the host is not accepted"),
        ("https:///a", "is not a host"),
    ],
)
def test_what_is_neither_is_told(text: str, message: str) -> None:
    with pytest.raises(SeraiError, match=message) as caught:
        question(text)
    assert "secret" not in str(caught.value)


def explained(policy: dict[str, Any], text: str, method: str = "", *never: str) -> dict[str, Any]:
    async def resolve(_: str) -> list[Address]:
        return [ip_address("8.8.8.8"), ip_address("10.0.0.1")]

    async def said() -> dict[str, Any]:
        ending = TlsEnding(Tls(never=never), None)
        outlet = Egress(Settings(), cast("Log", None), resolve, ending=ending)
        own = profiles.policy(policy)
        rules = profiles.effective(own, {})
        session = Session("", 0, own, rules, Allowance(1, 1), Lookups(1))
        return await explain.explain(outlet, session, question(text, method))

    return asyncio.run(said())


def verdicts(said: dict[str, Any]) -> list[tuple[bool, str]]:
    return [(each["allowed"], each["rule"]) for each in said["verdicts"]]


def test_a_bound_host_gets_the_secret() -> None:
    said = explained({"allow": ["api.test"], "bind": [KEY]}, "api.test")
    assert (said["tls"], said["secrets"], said["request"]) == ("ended", ["key"], None)
    assert verdicts(said) == [(True, "allow api.test"), (False, "private range 10.0.0.0/8")]
    assert explained({"bind": [KEY]}, "api.test")["secrets"] == []  # denied
    said = explained({"allow": ["api.test"], "bind": [KEY]}, "http://api.test/")
    assert (said["tls"], said["secrets"]) == ("none", [])
    said = explained({"allow": ["api.test"], "bind": [KEY]}, "api.test", "", "*.test")
    assert (said["allowed"], said["tls"], said["secrets"]) == (True, "tunnel", [])


@pytest.mark.parametrize(
    ("text", "method", "rule"),
    [
        ("https://api.test/a/b?c", "", "allow api.test GET /a/**"),
        ("https://api.test/a/b", "POST", "default deny"),
        ("https://api.test/b", "", "default deny"),
        ("http://api.test/a/b", "", "allow api.test GET /a/**"),
        ("api.test", "", "allow api.test GET /a/**"),
        ("api.test", "GET", "default deny"),
    ],
)
def test_a_request_is_explained_where_requests_decide(text: str, method: str, rule: str) -> None:
    said = explained({"allow": ["api.test GET /a/**"]}, text, method)
    assert said["allowed"] == rule.startswith("allow")
    assert verdicts(said)[0] == (said["allowed"], rule)
    assert not verdicts(said)[1][0]


def test_requests_that_nobody_may_see_are_denied_where_they_decide() -> None:
    said = explained({"allow": ["api.test GET"]}, "https://api.test/", "", "api.test")
    assert verdicts(said)[0] == (False, "unseen requests")
    assert "never" in said["verdicts"][0]["reason"]  # what an administrator can change
    assert not explained({"allow": ["api.test GET"]}, "api.test", "", "api.test")["allowed"]
