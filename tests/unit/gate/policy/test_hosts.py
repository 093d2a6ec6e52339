from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serai.gate.policy.hosts import (
    BadHost,
    Host,
    Target,
    host,
    port_number,
    target,
    unmapped,
    written,
)

LOOPBACK = IPv4Address("127.0.0.1")

# What a spelling is made of that ends up as an address, a name in Punycode or nothing.
PIECES = st.sampled_from(
    [
        *("a", "Z", "0", "7", "9", "0x", "0X7f", "017", "127", "255", "256", "4294967295", "xn--"),
        *(
            ".",
            "..",
            "-",
            "_",
            ":",
            "::",
            "[",
            "]",
            "%",
            "%2e",
            "@",
            "/",
            "\\",
            "#",
            "?",
            "*",
            "\0",
        ),
        *("\n", " ", "\t", "\x7f", "ffff", "fe80", "e", "1e3", "+1", "localhost", "example.com"),
        *("\u3002", "\uff0e", "\uff61", "\u2024", "\uff11", "\uff41", "\u2460", "\u0661", "\u00b2"),
        *("\u00ad", "\u200b", "\u200d", "\ufeff", "\u202e", "\u00e4", "\u00df", "\u0130", "\u212a"),
        *("\u2488", "\ufdfa", "\u2100", "\U0001f600", "\U000e0061", "\u05d0", "\u0430", "\ud800"),
    ]
)
FORMS = st.sampled_from(["{}", "0x{:x}", "0{:o}", "0X{:X}", "00{:o}"])
SPELLINGS = st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=40).map("".join))


def host_or_none(text: str) -> Host | None:
    try:
        return host(text)
    except BadHost:
        return None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("a", "a"),
        ("_acme-challenge.example.com", "_acme-challenge.example.com"),
        ("r3---sn-4g5e6nez.example.com", "r3---sn-4g5e6nez.example.com"),
        ("3com.com", "3com.com"),
        ("127.0.0.1.example.com", "127.0.0.1.example.com"),
        ("1e3", "1e3"),
        ("example.0xyz", "example.0xyz"),
        ("x" * 63 + ".com", "x" * 63 + ".com"),
        (".".join(["x" * 63] * 3 + ["y" * 61]), ".".join(["x" * 63] * 3 + ["y" * 61])),
        # Every kind of full stop, also the last one.
        ("example\u3002com", "example.com"),
        ("example\uff0ecom\uff61", "example.com"),
        # Full width, circled, mathematical, and what is not there at all.
        ("\uff25\uff38\uff21\uff2d\uff30\uff2c\uff25.com", "example.com"),
        ("\u24d4xample.com", "example.com"),
        ("\U0001d41example.com", "example.com"),
        ("exam\u00adple.com", "example.com"),
        ("\u212aernel.example", "kernel.example"),
        # IDNA 2008, not 2003: the sharp s and the final sigma stay letters of their own.
        ("M\u00dcNCHEN.example", "xn--mnchen-3ya.example"),
        ("mu\u0308nchen.example", "xn--mnchen-3ya.example"),
        ("stra\u00dfe.example", "xn--strae-oqa.example"),
        ("\u03b2\u03cc\u03bb\u03bf\u03c2.example", "xn--nxasmm1c.example"),
        ("xn--MNCHEN-3ya.example", "xn--mnchen-3ya.example"),
        # Cyrillic a: another name than it looks like.
        ("\u0440\u0430\u0443\u0440\u0430l.example", "xn--l-7sba6dbr.example"),
        ("\u4f8b\u3048.\u30c6\u30b9\u30c8", "xn--r8jz45g.xn--zckzah"),
    ],
)
def test_a_name_has_one_form(text: str, name: str) -> None:
    assert host(text) == name


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0x7f.0x0.0x0.0x1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("00000000000000000177.0.0.1", "127.0.0.1"),
        ("127.0x1", "127.0.0.1"),
        ("127.0.65535", "127.0.255.255"),
        ("127.16777215", "127.255.255.255"),
        ("0", "0.0.0.0"),  # noqa: S104  # the address itself, nothing binds
        ("00", "0.0.0.0"),  # noqa: S104
        ("4294967295", "255.255.255.255"),
        ("0xffffffff", "255.255.255.255"),
        ("169.254.169.254", "169.254.169.254"),
        ("0xa9fea9fe", "169.254.169.254"),
        ("2852039166", "169.254.169.254"),
        ("0251.0376.0251.0376", "169.254.169.254"),
        ("0xa9.0376.43518", "169.254.169.254"),
        # In other digits and dots.
        ("\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127.0.0.1"),
        ("127\u30020\uff0e0\uff611", "127.0.0.1"),
        ("\u2460\u2461\u2466.0.0.\u2460", "127.0.0.1"),
        ("\U0001d7cf\U0001d7d0\U0001d7d5.1", "127.0.0.1"),
        ("\u00b9\u00b2\u2077.1", "127.0.0.1"),
        ("127.0.\u00ad0.1", "127.0.0.1"),
        ("\uff10\uff58\uff17\uff46.1", "127.0.0.1"),
        # In IPv6.
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::FFFF:7F00:1", "127.0.0.1"),
        ("[0:0:0:0:0:ffff:7f00:0001]", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("[0000:0000::0001]", "::1"),
        ("::", "::"),
        ("::127.0.0.1", "::7f00:1"),
        ("64:ff9b::127.0.0.1", "64:ff9b::7f00:1"),
        ("2001:DB8::A", "2001:db8::a"),
    ],
)
def test_an_address_has_one_form(text: str, address: str) -> None:
    found = host(text)
    assert isinstance(found, IPv4Address | IPv6Address)
    assert str(found) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "a..", ".a", "a..b", "a.\u3002", "\u3002", "\u00ad", "\u00ad.com"),
        *("a b", " a", "a ", "a\n", "a\0", "a\0.example.com", "\0", "a\x7f", "a\t.com", "a\r\nb"),
        *("a%2ecom", "127.0.0.1%2e", "%31%32%37.0.0.1", "a%", "a@b", "a/b", "a\\b", "a#b", "a?b"),
        *(
            "a,b",
            "a;b",
            "a&b",
            "a'b",
            'a"b',
            "a=b",
            "a+b",
            "a~b",
            "a!b",
            "a$b",
            "(a)",
            "{a}",
            "<a>",
        ),
        *("*", "*.example.com", "a.*.com", "\uff0a", "\uff0a.com", "a|b", "a^b", "a`b"),
        *("x" * 64 + ".com", "x" * 254, ".".join(["x" * 63] * 4), "a." * 127 + "bb", "x" * 100_000),
        *("\u00e4" * 64, "\u00e4" * 60, "\ufdfa" * 200, "\ufdfa" * 100_000),
        # Names that end in a number and are no address.
        *("a.1", "1.2.3.4.5", "1.2.3.256", "256.1.1.1", "4294967296", "0x100000000", "0x"),
        *(
            "1.0x",
            "08",
            "127.0.0.09",
            "0x7g.1",
            "1..2",
            "127.0.0.0x",
            "-1.0.0.1",
            "+1.0.0.1",
            "a.0x1",
        ),
        *("1.2.3.0400", "127.0.65536", "127.16777216", "1_0.0.0.1", "0x_7f.1", "1e3.1", "0o177.1"),
        *("0b1.1", "example.com.1", "9" * 63, "0x" + "f" * 61),
        # IPv6 that is none, has a zone or more around it.
        *(
            "[",
            "]",
            "[]",
            "[::1",
            "::1]",
            "[[::1]]",
            "[::1]:80",
            "[::1].",
            "::1.",
            "[a]",
            "[1.2.3.4]",
        ),
        *("fe80::1%eth0", "[fe80::1%25eth0]", "::1%", "[::1%lo]", ":", ":::", "1:2", "1::2::3"),
        *("::ffff:127.1", "::ffff:0x7f.0.0.1", "::ffff:0177.0.0.1", "::ffff:256.0.0.1", "12345::"),
        *("::\uff11", "\uff1a\uff1a1", "\uff3b::1\uff3d", "::1/128", " ::1", "::1 ", "::g", "a:80"),
        # Beyond ASCII: not assigned, not allowed, or not by IDNA 2008.
        *("\u2603.example", "\U0001f600.example", "\ud800.example", "\u200d.example", "\ufffe"),
        *("\u0661\u0662\u0667.\u0660.\u0660.\u0661", "\u2100.com", "\u2488com", "a\u202eb.com"),
        *(
            "xn--\u00e4.com",
            "ab--\u00e4.com",
            "-\u00e4.com",
            "\u00e4-.com",
            "\u0300a.com",
            "\ufeff",
        ),
        *("\u05d0a.com", "a\u2044b.com", "a\uff0fb.com", "a\uff20b.com", "a\uff05b.com", "\u2024"),
    ],
)
def test_everything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadHost) as caught:
        host(text)
    message = str(caught.value)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 1200


@settings(max_examples=800)
@given(SPELLINGS)
@example("\u2488\uff11")
@example("xn--\u212a")
def test_whatever_is_written_has_one_safe_form_or_none(text: str) -> None:
    found = host_or_none(text)
    if found is None:
        return
    assert host(str(found)) == found
    assert host(written(found)) == found
    assert unmapped(found) == found if not isinstance(found, str) else len(found) <= 253
    if isinstance(found, str):
        assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
        assert all(0 < len(label) < 64 for label in found.split("."))
        # Nothing that a resolver takes for an address is left a name.
        with pytest.raises(OSError, match="illegal IP address"):
            socket.inet_aton(found)


@settings(max_examples=250)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.tuples(*[FORMS] * 4), st.booleans())
def test_every_spelling_of_ipv4_is_what_inet_aton_says(
    number: int, parts: int, forms: tuple[str, ...], dot: bool
) -> None:
    packed = number.to_bytes(4, "big")
    numbers = [*packed[: parts - 1], int.from_bytes(packed[parts - 1 :], "big")]
    text = ".".join(form.format(value) for form, value in zip(forms, numbers, strict=False))
    assert host(text + "." * dot) == IPv4Address(socket.inet_aton(text)) == IPv4Address(number)


@settings(max_examples=300)
@given(st.ip_addresses(v=6), st.booleans(), st.booleans())
def test_every_spelling_of_ipv6_is_the_address(
    address: IPv6Address, long: bool, brackets: bool
) -> None:
    text = (address.exploded if long else address.compressed).upper()
    assert host(f"[{text}]" if brackets else text) == unmapped(address)


@settings(max_examples=300)
@given(st.text("0123456789x.abcdef-_", max_size=20))
def test_what_inet_aton_takes_is_never_a_name(text: str) -> None:
    try:
        address = IPv4Address(socket.inet_aton(text))
    except OSError:
        return
    assert host_or_none(text) in (None, address)


@pytest.mark.parametrize(
    ("text", "host_", "port", "written_"),
    [
        ("example.com:443", "example.com", 443, "example.com:443"),
        ("EXAMPLE.com.:00443", "example.com", 443, "example.com:443"),
        ("127.1:80", LOOPBACK, 80, "127.0.0.1:80"),
        ("[::1]:80", IPv6Address("::1"), 80, "[::1]:80"),
        ("[::ffff:7f00:1]:65535", LOOPBACK, 65535, "127.0.0.1:65535"),
        ("m\u00fcnchen.example:1", "xn--mnchen-3ya.example", 1, "xn--mnchen-3ya.example:1"),
    ],
)
def test_an_authority_is_a_target(text: str, host_: Host, port: int, written_: str) -> None:
    assert target(text) == target(text, 8080) == Target(host_, port)
    assert str(target(text)) == written_
    assert target(written_) == target(text)


@pytest.mark.parametrize(
    ("text", "host_"),
    [("a.com", "a.com"), ("[::1]", IPv6Address("::1")), ("0", IPv4Address(0))],
)
def test_a_missing_port_is_the_default_one_or_an_error(text: str, host_: Host) -> None:
    assert target(text, 80) == Target(host_, 80)
    with pytest.raises(BadHost, match="port is missing"):
        target(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":80", "a:", "a:0", "a:65536", "a:99999", "a:000080", "a:-1", "a:+1", "a: 80"),
        *("a:80 ", "a:8_0", "a:0x50", "a:http", "a:80:80", "a:80\n", "a:\uff18\uff10", "a:\u0668"),
        *("u@a:80", "u:p@a:80", "@a:80", "a@:80", "a:80@b", "a:80@b:81", "a\uff20b:80"),
        *(
            "::1",
            "::1:80",
            "1:2:3",
            "[::1]80",
            "[::1]:",
            "[::1]x:80",
            "[::1]:80:80",
            "[::1",
            "[]:80",
        ),
        *(
            "a/b:80",
            "http://a:80",
            "a:80/",
            "a:80?x",
            "a:80#x",
            "a\uff1a80",
            "a\0:80",
            "[fe80::1%1]:80",
        ),
    ],
)
def test_other_authorities_are_refused(text: str) -> None:
    for port in (None, 80):
        with pytest.raises(BadHost):
            target(text, port)


def test_a_password_before_a_host_is_not_repeated() -> None:
    with pytest.raises(BadHost) as caught:
        target("user:secret@example.com:80")
    assert "secret" not in str(caught.value)


@settings(max_examples=250)
@given(SPELLINGS, st.sampled_from(["", ":80", ":0", "80", ":", ":70000"]))
def test_an_authority_is_a_target_that_reads_back_or_refused(text: str, after: str) -> None:
    try:
        found = target(text + after)
    except BadHost:
        return
    assert 0 < found.port < 65536
    assert target(str(found)) == found


@pytest.mark.parametrize("text", ["1", "65535", "00001"])
def test_a_port_is_decimal(text: str) -> None:
    assert port_number(text) == int(text)


@pytest.mark.parametrize("text", ["", "0", "65536", "1" * 5000, "a", " 1", "1\n", "\u0661"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(BadHost):
        port_number(text)


def test_an_address_loses_its_zone_and_its_mapping() -> None:
    assert unmapped(IPv6Address("fe80::1%eth0")) == IPv6Address("fe80::1")
    assert unmapped(IPv6Address("::ffff:10.0.0.1")) == IPv4Address("10.0.0.1")
    assert unmapped(IPv4Address("10.0.0.1")) == IPv4Address("10.0.0.1")
