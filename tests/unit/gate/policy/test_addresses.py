from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serai.gate.policy.addresses import TABLE, special
from serai.gate.policy.hosts import Address, unmapped


@pytest.mark.parametrize(
    ("text", "reason", "network"),
    [
        ("0.0.0.0", "unspecified", "0.0.0.0/8"),  # noqa: S104  # the address itself, nothing binds
        ("0.1.2.3", "unspecified", "0.0.0.0/8"),
        ("10.0.0.0", "private", "10.0.0.0/8"),
        ("10.255.255.255", "private", "10.0.0.0/8"),
        ("100.64.0.1", "carrier-grade NAT", "100.64.0.0/10"),
        ("100.127.255.255", "carrier-grade NAT", "100.64.0.0/10"),
        ("100.100.100.200", "metadata", "100.100.100.200/32"),
        ("127.0.0.1", "loopback", "127.0.0.0/8"),
        ("127.255.255.255", "loopback", "127.0.0.0/8"),
        ("168.63.129.16", "metadata", "168.63.129.16/32"),
        ("169.254.0.1", "link-local", "169.254.0.0/16"),
        ("169.254.169.254", "metadata", "169.254.169.254/32"),
        ("172.16.0.1", "private", "172.16.0.0/12"),
        ("172.31.255.255", "private", "172.16.0.0/12"),
        ("192.0.0.1", "protocol assignment", "192.0.0.0/24"),
        ("192.0.2.1", "documentation", "192.0.2.0/24"),
        ("192.88.99.1", "6to4 relay", "192.88.99.0/24"),
        ("192.168.1.1", "private", "192.168.0.0/16"),
        ("198.18.0.1", "benchmarking", "198.18.0.0/15"),
        ("198.19.255.255", "benchmarking", "198.18.0.0/15"),
        ("198.51.100.1", "documentation", "198.51.100.0/24"),
        ("203.0.113.1", "documentation", "203.0.113.0/24"),
        ("224.0.0.1", "multicast", "224.0.0.0/4"),
        ("239.255.255.255", "multicast", "224.0.0.0/4"),
        ("240.0.0.1", "reserved", "240.0.0.0/4"),
        ("255.255.255.254", "reserved", "240.0.0.0/4"),
        ("255.255.255.255", "broadcast", "255.255.255.255/32"),
        ("::", "unspecified", "::/128"),
        ("::1", "loopback", "::1/128"),
        ("::2", "IPv4-compatible", "::/96"),
        ("::127.0.0.1", "IPv4-compatible", "::/96"),
        ("::ffff:127.0.0.1", "loopback", "127.0.0.0/8"),
        ("::ffff:169.254.169.254", "metadata", "169.254.169.254/32"),
        ("::ffff:0:127.0.0.1", "IPv4-translated", "::ffff:0:0:0/96"),
        ("64:ff9b::127.0.0.1", "NAT64", "64:ff9b::/96"),
        ("64:ff9b::8.8.8.8", "NAT64", "64:ff9b::/96"),
        ("64:ff9b:1::1", "NAT64", "64:ff9b:1::/48"),
        ("64:ff9b:2::1", "reserved", "::/3"),
        ("100::1", "discard-only", "100::/64"),
        ("100:0:0:1::1", "dummy", "100:0:0:1::/64"),
        ("2001::1", "Teredo", "2001::/32"),
        ("2001:1::1", "protocol assignment", "2001::/23"),
        ("2001:2::1", "benchmarking", "2001:2::/48"),
        ("2001:10::1", "ORCHID", "2001:10::/28"),
        ("2001:2f::1", "ORCHID", "2001:20::/28"),
        ("2001:db8::1", "documentation", "2001:db8::/32"),
        ("2002:7f00:1::1", "6to4", "2002::/16"),
        ("3fff:fff::1", "documentation", "3fff::/20"),
        ("4000::1", "reserved", "4000::/2"),
        ("5f00::1", "segment routing", "5f00::/16"),
        ("9000::1", "reserved", "8000::/1"),
        ("fc00::1", "unique local", "fc00::/7"),
        ("fd00:ec2::1", "unique local", "fc00::/7"),
        ("fd00:ec2::254", "metadata", "fd00:ec2::254/128"),
        ("fe80::1", "link-local", "fe80::/10"),
        ("fe80::1%eth0", "link-local", "fe80::/10"),
        ("febf::1", "link-local", "fe80::/10"),
        ("fec0::1", "site-local", "fec0::/10"),
        ("ff02::1", "multicast", "ff00::/8"),
    ],
)
def test_a_special_address_is_in_its_narrowest_range(text: str, reason: str, network: str) -> None:
    found = special(ip_address(text))
    assert found is not None
    assert (found[1], str(found[0])) == (reason, network)


@pytest.mark.parametrize(
    "text",
    [
        *("1.0.0.0", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
        *("126.255.255.255", "128.0.0.0", "168.63.129.15", "169.253.255.255", "169.255.0.0"),
        *("172.15.255.255", "172.32.0.0", "192.0.1.0", "192.0.3.0", "192.167.255.255"),
        *("192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "::ffff:8.8.8.8"),
        *("2000::1", "2001:200::1", "2001:db7::1", "2001:db9::1", "2003::1", "2606:4700::1111"),
        *("2a00:1450::1", "3ffe::1", "3fff:1000::1"),
    ],
)
def test_a_public_address_is_not_special(text: str) -> None:
    assert special(ip_address(text)) is None


def test_every_row_is_found_by_an_address_in_it() -> None:
    assert len({network for network, _ in TABLE}) == len(TABLE)
    reached = {special(each) for network, _ in TABLE for each in (network[0], network[-1])}
    assert reached >= set(TABLE) - {row for row in TABLE if row[1] == "reserved"}


@settings(max_examples=200)
@given(st.ip_addresses())
def test_only_global_unicast_is_public(address: Address) -> None:
    address = unmapped(address)
    if special(address) is None:
        assert not address.is_loopback
        assert not address.is_link_local
        assert not address.is_multicast
        assert not address.is_unspecified
        assert address.version == 4 or int(address) >> 125 == 1  # 2000::/3


@settings(max_examples=100)
@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_as_what_it_maps(address: Address) -> None:
    assert special(IPv6Address(f"::ffff:{address}")) == special(address)
