"""Special address ranges, which a name must not lead to unless a rule opens them.

The standard library's ``is_private`` and its kin changed their answers between versions of Python,
so the ranges are here, after the IANA IPv4 and IPv6 Special-Purpose Address Registries
(https://www.iana.org/assignments/iana-ipv4-special-registry, .../iana-ipv6-special-registry), the
IPv4 multicast space (RFC 5771) and the IPv6 address space (RFC 4291, section 2.4). Ranges that are
forwarded to an IPv4 address inside them (6to4, NAT64 and so on) are special as a whole.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

from serai.gate.policy.hosts import Address, unmapped

Network: TypeAlias = IPv4Network | IPv6Network

# The reason reads before the word "range". A cloud's metadata service hands out credentials, so
# its addresses are rows of their own: a rule for the range around one does not open it.
TABLE: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(text), reason)
    for text, reason in (
        ("0.0.0.0/8", "unspecified"),  # RFC 791, 3.2; Linux takes 0.0.0.0 for the loopback
        ("10.0.0.0/8", "private"),  # RFC 1918
        ("100.64.0.0/10", "carrier-grade NAT"),  # RFC 6598
        ("100.100.100.200/32", "metadata"),  # Alibaba Cloud
        ("127.0.0.0/8", "loopback"),  # RFC 1122, 3.2.1.3
        ("168.63.129.16/32", "metadata"),  # Azure's platform service, at a public address
        ("169.254.0.0/16", "link-local"),  # RFC 3927
        ("169.254.169.254/32", "metadata"),  # nearly every cloud
        ("169.254.170.2/32", "metadata"),  # AWS, credentials of containers
        ("169.254.170.23/32", "metadata"),  # likewise
        ("172.16.0.0/12", "private"),  # RFC 1918
        ("192.0.0.0/24", "protocol assignment"),  # RFC 6890, 2.1
        ("192.0.0.192/32", "metadata"),  # Oracle Cloud
        ("192.0.2.0/24", "documentation"),  # RFC 5737
        ("192.88.99.0/24", "6to4 relay"),  # RFC 7526
        ("192.168.0.0/16", "private"),  # RFC 1918
        ("198.18.0.0/15", "benchmarking"),  # RFC 2544
        ("198.51.100.0/24", "documentation"),  # RFC 5737
        ("203.0.113.0/24", "documentation"),  # RFC 5737
        ("224.0.0.0/4", "multicast"),  # RFC 5771
        ("240.0.0.0/4", "reserved"),  # RFC 1112, 4
        ("255.255.255.255/32", "broadcast"),  # RFC 919, 7
        ("::/3", "reserved"),  # RFC 4291: global unicast is 2000::/3; narrower ones follow
        ("::/96", "IPv4-compatible"),  # RFC 4291, 2.5.5.1, deprecated
        ("::/128", "unspecified"),  # RFC 4291, 2.5.2; Linux takes it for the loopback
        ("::1/128", "loopback"),  # RFC 4291, 2.5.3
        ("::ffff:0:0:0/96", "IPv4-translated"),  # RFC 2765, 2.1
        ("64:ff9b::/96", "NAT64"),  # RFC 6052
        ("64:ff9b:1::/48", "NAT64"),  # RFC 8215
        ("100::/64", "discard-only"),  # RFC 6666
        ("100:0:0:1::/64", "dummy"),  # RFC 9780
        ("2001::/23", "protocol assignment"),  # RFC 2928
        ("2001::/32", "Teredo"),  # RFC 4380
        ("2001:2::/48", "benchmarking"),  # RFC 5180
        ("2001:10::/28", "ORCHID"),  # RFC 4843, deprecated
        ("2001:20::/28", "ORCHID"),  # RFC 7343
        ("2001:db8::/32", "documentation"),  # RFC 3849
        ("2002::/16", "6to4"),  # RFC 3056
        ("3fff::/20", "documentation"),  # RFC 9637
        ("4000::/2", "reserved"),  # RFC 4291
        ("5f00::/16", "segment routing"),  # RFC 9602
        ("8000::/1", "reserved"),  # RFC 4291
        ("fc00::/7", "unique local"),  # RFC 4193
        ("fd00:ec2::23/128", "metadata"),  # AWS, credentials of containers
        ("fd00:ec2::254/128", "metadata"),  # AWS
        ("fd20:ce::254/128", "metadata"),  # Google Cloud
        ("fe80::/10", "link-local"),  # RFC 4291, 2.5.6
        ("fec0::/10", "site-local"),  # RFC 3879, deprecated
        ("ff00::/8", "multicast"),  # RFC 4291, 2.7
    )
)

_NARROWEST_FIRST = sorted(TABLE, key=lambda row: row[0].prefixlen, reverse=True)


@lru_cache(4096)  # every connection asks, some of them three times
def special(address: Address) -> tuple[Network, str] | None:
    """The narrowest special range that ``address`` is in, and what it is for; None if public.

    An IPv4 address mapped into IPv6 is judged as the IPv4 address.
    """
    meant = unmapped(address)
    return next((row for row in _NARROWEST_FIRST if meant in row[0]), None)
