from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serai.gate.policy.addresses import TABLE
from serai.gate.policy.bindings import Binding
from serai.gate.policy.hosts import Address, BadHost, Target, host, target
from serai.gate.policy.rules import (
    Rule,
    Rules,
    combined,
    decide,
    decide_request,
    rule,
    sees_requests,
)


def rules(allow: str = "", deny: str = "") -> Rules:
    return Rules(tuple(map(rule, allow.split())), tuple(map(rule, deny.split())))


# Every rule that a person would call "everything", and that must open no special range.
def allowed(its: Rules, to: Target) -> bool:
    [(_, verdict)] = decide(its, to)
    return verdict.allowed


EVERYTHING = rules("* 0.0.0.0/0 ::/0 0.0.0.0/1 128.0.0.0/1 ::/1 ::/2 *:80 [::]/0:80")
FORMS = st.sampled_from(["{}", "0x{:x}", "0{:o}"])
DOTS = st.sampled_from([".", "\u3002", "\uff0e", "\uff61"])
SPECIAL = st.sampled_from(TABLE).flatmap(
    lambda row: st.integers(int(row[0][0]), int(row[0][-1])).map(type(row[0][0]))
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.com.:0443", "example.com:443"),
        ("*.Example.com", "*.example.com"),
        ("*.example\u3002com:80", "*.example.com:80"),
        ("*.m\u00fcnchen.example", "*.xn--mnchen-3ya.example"),
        ("*.com", "*.com"),
        ("*", "*"),
        ("*:443", "*:443"),
        ("_x.example.com", "_x.example.com"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("192.0.2.7:80", "192.0.2.7:80"),
        ("127.1", "127.0.0.1"),
        ("0x7f000001:80", "127.0.0.1:80"),
        ("\uff11\uff12\uff17.1", "127.0.0.1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/8:443", "10.0.0.0/8:443"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("[2001:db8::]/32", "2001:db8::/32"),
        ("[2001:db8::]/32:443", "[2001:db8::]/32:443"),
        ("::/0", "::/0"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("[::ffff:0:0]/96:80", "0.0.0.0/0:80"),
    ],
)
def test_a_rule_has_one_spelling(text: str, canonical: str) -> None:
    found = rule(text)
    assert found.text == str(found) == canonical
    assert rule(canonical) == found
    assert rule(canonical).text == canonical


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ".", "*.", "**", "*.*", "*.*.com", "a.*", "a.*.com", "*a.com", "a*.com", "*com"),
        *(".example.com", "a..b", "a b", "a\n", "a\0", "a%2eb", "a@b", "http://a", "a/b", "a/24"),
        *("*.1.2.3.4", "*.127.1", "*.::1", "*.[::1]", "*/8", "*.a/8", "\uff0a", "\uff0a.com"),
        *(":", ":80", "a:", "a:0", "a:65536", "a:http", "a:80:80", "*:", "*:*", "a:*", "a: 80"),
        *("10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/ 8", "10.0.0.0/8/8"),
        *("10.0.0.1/8", "10/8", "10.0/16", "0x0a000000/8", "012.0.0.0/8", "10.0.0.0/255.0.0.0"),
        *("10.0.0.0/\uff18", "10.0.0.0/0000", "10.0.0.0/8:", "10.0.0.0:80/8", "10.0.0.0/8:0"),
        *("/8", "1.2.3.4.5", "256.0.0.1", "a.1", "1.2.3.4/32/32", "1.2.3.4-1.2.3.9", "1.2.3.*"),
        *("2001:db8::1/32", "2001:db8::/129", "2001:db8::/32:443", "2001:db8::/", "::1/", "/64"),
        *(
            "[2001:db8::/32]",
            "[2001:db8::/32]:80",
            "[::1]80",
            "[::1",
            "::1]",
            "[]",
            "[::1]:",
            "[a]",
        ),
        *("[1.2.3.4]", "[10.0.0.0]/8", "fe80::1%eth0", "fe80::%eth0/64", "[fe80::%1]/64", "[::1]/"),
        *("::ffff:10.0.0.1/104", "!example.com", "~a", "x" * 64, "x." * 200, "\u2603.com"),
    ],
)
def test_what_is_no_rule_is_told_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rule: ") as caught:
        rule(text)
    message = str(caught.value)
    assert message.startswith(ascii(text))
    assert message.isprintable()


def test_host_bits_are_told_with_the_network_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"the network is 10\.0\.0\.0/8"):
        rule("10.1.2.3/8")


@pytest.mark.parametrize(
    ("allow", "deny", "to", "decided"),
    [
        ("", "", "example.com:443", "default deny"),
        ("example.com", "", "example.com:443", "allow example.com"),
        ("example.com", "", "EXAMPLE.com.:443", "allow example.com"),
        ("example.com", "", "www.example.com:443", "default deny"),
        ("example.com", "", "notexample.com:443", "default deny"),
        ("example.com", "", "example.com.evil.test:443", "default deny"),
        ("example.com", "", "example.co:443", "default deny"),
        ("example.com:443", "", "example.com:443", "allow example.com:443"),
        ("example.com:443", "", "example.com:80", "default deny"),
        ("*.example.com", "", "example.com:443", "default deny"),
        ("*.example.com", "", "www.example.com:443", "allow *.example.com"),
        ("*.example.com", "", "a.b.c.example.com:443", "allow *.example.com"),
        ("*.example.com", "", "wwwexample.com:443", "default deny"),
        ("*.example.com:443", "", "www.example.com:80", "default deny"),
        ("*.com", "", "example.com:443", "allow *.com"),
        ("*.com", "", "com:443", "default deny"),
        ("*", "", "example.com:443", "allow *"),
        ("*:443", "", "example.com:80", "default deny"),
        (
            "*.m\u00fcnchen.example",
            "",
            "www.xn--mnchen-3ya.example:1",
            "allow *.xn--mnchen-3ya.example",
        ),
        # Deny wins, however wide it is and however narrow what allows.
        ("*", "example.com", "example.com:443", "deny example.com"),
        ("example.com", "*", "example.com:443", "deny *"),
        ("example.com", "example.com", "example.com:443", "deny example.com"),
        ("www.example.com:443", "*.example.com", "www.example.com:443", "deny *.example.com"),
        ("example.com", "example.com:80", "example.com:443", "allow example.com"),
        ("example.com", "example.com:80", "example.com:80", "deny example.com:80"),
        ("example.com", "*.example.com", "example.com:80", "allow example.com"),
        # Rules for addresses say nothing about a name before it is looked up.
        ("0.0.0.0/0 ::/0", "", "example.com:443", "default deny"),
        ("example.com", "0.0.0.0/0 ::/0", "example.com:443", "allow example.com"),
        # Addresses.
        ("", "", "8.8.8.8:53", "default deny"),
        ("example.com", "", "8.8.8.8:53", "default deny"),
        ("*", "", "8.8.8.8:53", "allow *"),
        ("*:443", "", "8.8.8.8:53", "default deny"),
        ("8.8.8.8", "", "8.8.8.8:53", "allow 8.8.8.8"),
        ("8.8.8.8:53", "", "8.8.8.8:54", "default deny"),
        ("8.8.8.8:53", "", "134744072:53", "allow 8.8.8.8:53"),
        ("8.0.0.0/8", "", "[::ffff:8.8.8.8]:53", "allow 8.0.0.0/8"),
        ("0.0.0.0/0", "", "8.8.8.8:53", "allow 0.0.0.0/0"),
        ("::/0", "", "8.8.8.8:53", "default deny"),
        ("::/0", "", "[2606:4700::1]:53", "allow ::/0"),
        ("[::]/0:53", "", "[2606:4700::1]:53", "allow [::]/0:53"),
        ("*", "8.8.0.0/16", "8.8.8.8:53", "deny 8.8.0.0/16"),
        ("8.8.8.8", "*", "8.8.8.8:53", "deny *"),
        ("8.8.8.8", "*:80", "8.8.8.8:53", "allow 8.8.8.8"),
        ("*", "8.8.8.8", "010.0x8.2056:53", "deny 8.8.8.8"),
        ("10.0.0.0/8", "10.0.0.1", "10.0.0.1:80", "deny 10.0.0.1"),
        # Special ranges.
        ("*", "", "127.0.0.1:80", "loopback range 127.0.0.0/8"),
        ("", "", "127.0.0.1:80", "loopback range 127.0.0.0/8"),
        ("* 0.0.0.0/0", "", "10.0.0.1:80", "private range 10.0.0.0/8"),
        ("8.0.0.0/6", "", "10.0.0.1:80", "private range 10.0.0.0/8"),
        ("10.0.0.0/8", "", "10.0.0.1:80", "allow 10.0.0.0/8"),
        ("0.0.0.0/0 10.0.0.0/8", "", "10.0.0.1:80", "allow 10.0.0.0/8"),
        ("10.0.0.1", "", "10.0.0.1:80", "allow 10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.2:80", "private range 10.0.0.0/8"),
        ("10.0.0.0/8:443", "", "10.0.0.1:80", "private range 10.0.0.0/8"),
        ("127.0.0.1:80", "", "2130706433:80", "allow 127.0.0.1:80"),
        ("127.0.0.1", "", "[::ffff:7f00:1]:80", "allow 127.0.0.1"),
        ("127.0.0.1", "", "[::1]:80", "loopback address ::1"),
        ("::1", "", "[::1]:80", "allow ::1"),
        ("::/96", "", "[::1]:80", "loopback address ::1"),
        ("169.254.0.0/16", "", "169.254.1.1:80", "allow 169.254.0.0/16"),
        ("169.254.0.0/16", "", "169.254.169.254:80", "metadata address 169.254.169.254"),
        ("169.254.169.254", "", "169.254.169.254:80", "allow 169.254.169.254"),
        ("168.0.0.0/8", "", "168.63.129.16:80", "metadata address 168.63.129.16"),
        ("64:ff9b::/96", "", "[64:ff9b::7f00:1]:80", "allow 64:ff9b::/96"),
        ("127.0.0.0/8", "", "[64:ff9b::7f00:1]:80", "NAT64 range 64:ff9b::/96"),
        ("::/3", "", "[::ffff:0:7f00:1]:80", "IPv4-translated range ::ffff:0:0:0/96"),
    ],
)
def test_who_decides_about_a_target(allow: str, deny: str, to: str, decided: str) -> None:
    [(_, verdict)] = decide(rules(allow, deny), target(to))
    assert verdict.rule == decided
    assert verdict.allowed == decided.startswith("allow ")
    assert str(target(to)) in verdict.reason


@pytest.mark.parametrize(
    ("allow", "deny", "address", "decided"),
    [
        ("a.test", "", "8.8.8.8", "allow a.test"),
        ("a.test:80", "", "8.8.8.8", "allow a.test:80"),
        ("*", "", "2606:4700::1", "allow *"),
        ("", "", "8.8.8.8", "default deny"),
        ("b.test 8.8.8.8", "", "8.8.8.8", "default deny"),
        ("10.0.0.0/8", "", "10.0.0.1", "default deny"),
        ("a.test", "a.test", "8.8.8.8", "deny a.test"),
        ("a.test", "8.8.8.8", "8.8.8.8", "deny 8.8.8.8"),
        ("a.test", "8.8.8.8:443", "8.8.8.8", "allow a.test"),
        ("a.test", "0.0.0.0/0", "::ffff:8.8.8.8", "deny 0.0.0.0/0"),
        ("a.test", "", "10.0.0.1", "private range 10.0.0.0/8"),
        ("a.test 0.0.0.0/0", "", "10.0.0.1", "private range 10.0.0.0/8"),
        ("a.test 10.0.0.0/8", "", "10.0.0.1", "allow a.test"),
        ("a.test 10.0.0.0/8", "", "::ffff:10.0.0.1", "allow a.test"),
        ("a.test 10.0.0.0/8", "10.0.0.0/24", "10.0.0.1", "deny 10.0.0.0/24"),
        ("a.test 10.0.0.1:443", "", "10.0.0.1", "private range 10.0.0.0/8"),
        ("a.test", "", "127.0.0.1", "loopback range 127.0.0.0/8"),
        ("a.test", "", "::ffff:127.0.0.1", "loopback range 127.0.0.0/8"),
        ("a.test", "", "::", "unspecified address ::"),
        ("a.test", "", "fe80::1%eth0", "link-local range fe80::/10"),
        ("a.test", "", "169.254.169.254", "metadata address 169.254.169.254"),
        ("a.test", "", "2002:a00:1::", "6to4 range 2002::/16"),
    ],
)
def test_who_decides_about_what_a_name_leads_to(
    allow: str, deny: str, address: str, decided: str
) -> None:
    [(_, verdict)] = decide(rules(allow, deny), target("a.test:80"), [ip_address(address)])
    assert verdict.rule == decided
    assert verdict.allowed == decided.startswith("allow ")
    assert "a.test" in verdict.reason


@settings(max_examples=200)
@given(SPECIAL, st.integers(1, 65535), st.booleans(), st.sampled_from([None, "a.test"]))
def test_no_rule_for_everything_opens_a_special_address(
    address: Address, port: int, mapped: bool, named: str | None
) -> None:
    if mapped and isinstance(address, IPv4Address):
        address = IPv6Address(f"::ffff:{address}")
    to = Target(named or address, port)
    [(_, verdict)] = decide(EVERYTHING, to, [address] if named else None)
    assert not verdict.allowed


@settings(max_examples=200)
@given(SPECIAL, st.integers(1, 65535), st.tuples(*[FORMS] * 4), st.integers(1, 4), DOTS)
def test_no_spelling_of_a_special_address_gets_through(
    address: Address, port: int, forms: tuple[str, ...], parts: int, dot: str
) -> None:
    if isinstance(address, IPv6Address):
        spellings = [f"[{address}]", f"[{address.exploded}]", str(address).upper()]
    else:
        packed = address.packed
        numbers = [*packed[: parts - 1], int.from_bytes(packed[parts - 1 :], "big")]
        text = dot.join(form.format(value) for form, value in zip(forms, numbers, strict=False))
        wide = text.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)})
        spellings = [text, text + dot, wide, text.upper(), f"[::ffff:{address}]"]
    for spelling in spellings:
        [(_, verdict)] = decide(EVERYTHING, Target(host(spelling), port))
        assert not verdict.allowed
        assert "range" in verdict.rule or "address" in verdict.rule


@settings(max_examples=200)
@given(SPECIAL, st.integers(1, 65535))
def test_a_rule_for_the_address_itself_opens_it_and_a_deny_closes_it(
    address: Address, port: int
) -> None:
    own = rule(str(address))
    to = Target(address, port)
    assert allowed(Rules(allow=(own,)), to)
    assert not allowed(Rules(allow=(own,), deny=(own,)), to)


RULES = st.sampled_from(
    [
        *("a.test", "*.test", "*", "*:443", "b.a.test:80", "*.a.test:80"),
        *("8.8.8.8", "8.0.0.0/8", "0.0.0.0/0:80", "::/0", "10.0.0.0/8"),
    ]
).map(rule)


@settings(max_examples=200)
@given(
    st.lists(RULES),
    st.lists(RULES),
    RULES,
    st.sampled_from(["a.test:80", "b.a.test:443", "8.8.8.8:80", "10.1.1.1:80", "[2a00::1]:80"]),
)
def test_another_deny_never_allows_and_another_allow_never_denies(
    allow: list[Rule], deny: list[Rule], more: Rule, to: str
) -> None:
    before = allowed(Rules(tuple(allow), tuple(deny)), target(to))
    assert allowed(Rules(tuple(allow), (*deny, more)), target(to)) <= before
    assert allowed(Rules((*allow, more), tuple(deny)), target(to)) >= before


@settings(max_examples=400)
@given(st.text("*.:/[]0123456789abx%-@ \0\u3002\uff11", max_size=30) | st.text(max_size=60))
def test_a_text_is_a_rule_that_reads_back_or_a_value_error(text: str) -> None:
    try:
        found = rule(text)
    except ValueError as error:
        assert "is not a rule" in str(error)
        return
    assert rule(found.text) == found
    assert rule(found.text).text == found.text


@settings(max_examples=200)
@given(st.text("*.:0123456789abx-", max_size=30))
def test_a_plain_host_is_a_rule_for_exactly_itself(text: str) -> None:
    try:
        meant = host(text)
    except BadHost:
        return
    found = Rules(allow=(rule(text),))
    assert allowed(found, Target(meant, 80))
    assert not allowed(found, Target("other.test", 80))


def test_combined_rules_are_all_of_them_once() -> None:
    one, two = rules("a b", "c"), rules("b d", "c e")
    assert combined(one, two) == rules("a b d", "c e")
    assert combined() == Rules()
    assert combined(one) == one


def about(*texts: str, deny: Sequence[str] = ()) -> Rules:
    return Rules(tuple(map(rule, texts)), tuple(map(rule, deny)))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("API.Github.com:0443 get,HEAD  /repos/**", "api.github.com:443 GET,HEAD /repos/**"),
        ("github.com git-fetch", "github.com git-fetch"),
        ("*.example.com /a", "*.example.com /a"),
        ("* GET /**", "* GET /**"),
        ("*:443 delete", "*:443 DELETE"),
    ],
)
def test_a_rule_about_requests_has_one_spelling(text: str, canonical: str) -> None:
    assert rule(text).text == canonical
    assert rule(canonical) == rule(text)


@pytest.mark.parametrize(
    "text",
    ["10.0.0.0/8 GET", "192.0.2.1 /a", "[::1]:80 GET", "127.1 git-fetch", "a.test ", " GET", "a  "],
)
def test_a_rule_about_requests_is_for_names(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rule"):
        rule(text)


HOST = Target("api.test", 443)


@pytest.mark.parametrize(
    ("its", "connects", "sees"),
    [
        (about("api.test GET"), True, True),
        (about("*.test /a"), True, True),
        (about("* /a"), True, True),
        (about("api.test GET", "api.test"), True, False),
        (about("api.test", deny=["api.test POST"]), True, True),
        (about("*", deny=["* POST"]), True, True),
        (about("api.test GET", deny=["api.test"]), False, False),
        (about(deny=["api.test POST"]), False, False),
        (about("api.test:80 GET"), False, False),
        (about("api.test", deny=["api.test:80 POST"]), True, False),
        (about("api.test", "other.test GET", deny=["other.test POST"]), True, False),
    ],
)
def test_requests_are_seen_where_they_decide(its: Rules, connects: bool, sees: bool) -> None:
    assert allowed(its, HOST) == connects
    assert sees_requests(its, HOST) == sees


@pytest.mark.parametrize(
    ("its", "request_", "by"),
    [
        (about("api.test GET /a"), "GET /a", "allow api.test GET /a"),
        (about("api.test GET /a"), "POST /a", "default deny"),
        (about("api.test GET /a", "api.test POST"), "POST /a", "allow api.test POST"),
        (about("api.test GET /a", "api.test"), "POST /b", "allow api.test"),
        (about("api.test", deny=["api.test POST"]), "POST /b", "deny api.test POST"),
        (about("api.test", deny=["api.test POST"]), "GET /b", "allow api.test"),
        (about("api.test GET", deny=["*.test /b"]), "GET /b", "deny *.test /b"),
        (about("api.test GET", deny=["*.test"]), "GET /b", "deny *.test"),
        (about("api.test GET", deny=["*.test:80 /b"]), "GET /b", "allow api.test GET"),
        (about("api.test", deny=["api.test /secret"]), "GET /x/../b", "deny api.test /secret"),
        (about("api.test /**"), "GET /x/../b", "default deny"),
        (about("api.test GET"), "GET /x/../b", "allow api.test GET"),
        (about("other.test /**"), "GET /b", "default deny"),
    ],
)
def test_a_request_is_decided_by_the_rules_for_it(its: Rules, request_: str, by: str) -> None:
    method, path = request_.split()
    verdict = decide_request(its, HOST, method, f"{path}?key=secret")
    assert verdict.rule == by
    assert verdict.allowed == by.startswith("allow")
    assert "secret" not in verdict.reason.replace(by, "").replace("/secret", "")
    assert ("leaves doubt" in verdict.reason) == (".." in path and not verdict.allowed)


def test_what_no_rule_allows_is_said_with_method_and_path() -> None:
    reason = decide_request(about("api.test GET /a"), HOST, "POST", "/b?c").reason
    assert reason == "no rule allows api.test:443 POST /b"


def test_requests_to_addresses_are_not_seen_and_not_allowed_by_rules_about_them() -> None:
    address = Target(ip_address("8.8.8.8"), 443)
    assert not allowed(about("* GET"), address)
    assert not sees_requests(about("* GET"), address)
    assert allowed(about("*", "8.8.8.8", deny=["* POST"]), address)
    assert allowed(about("*", deny=["*:80 POST", "api.test POST"]), address)
    # Otherwise a session would ask for the host by its address.
    its = about("*", deny=["* POST"])
    assert not allowed(its, address)
    assert decide_request(its, address, "GET", "/").rule == "deny * POST"


def test_what_a_name_leads_to_is_judged_without_rules_about_requests() -> None:
    found = [ip_address("8.8.8.8"), ip_address("10.0.0.1")]
    verdicts = decide(about("api.test GET", deny=["* POST"]), HOST, found)
    assert [verdict.allowed for _, verdict in verdicts] == [True, False]


def test_bindings_are_combined_as_well() -> None:
    one, two = (Binding(secret=each, hosts=("api.test",)) for each in ("one", "two"))
    assert combined(Rules(bind=(one,)), Rules(bind=(two, one))).bind == (one, two)
