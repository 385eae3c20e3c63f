"""Convert addresses and prefixes between text and numbers. Reading is strict, output is canonical."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import netaddr

Family = Literal[4, 6]
WIDTH: dict[Family, int] = {4: 32, 6: 128}
"""Bits of an address of each family."""


class Span(NamedTuple):
    """A prefix as the numbers of its first and last address, both included."""

    family: Family
    first: int
    last: int
    length: int
    """Prefix length, bits."""


class NotAPrefix(ValueError):
    """The text is no prefix in canonical form. ``hint``: the probable correction."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def address(text: str) -> str:
    """Return the canonical form of an IPv4 or IPv6 address. Raises :class:`ValueError`."""
    return str(_address(text))


def _address(text: str) -> netaddr.IPAddress:
    try:
        return netaddr.IPAddress(text)
    except (netaddr.AddrFormatError, ValueError) as error:
        raise ValueError(f"{text!r} is not an IP address") from error


@lru_cache(maxsize=1 << 14)
def number(text: str) -> tuple[Family, int]:
    """Return the family and the number of an address. Raises :class:`ValueError`."""
    parsed = _address(text)
    return parsed.version, int(parsed)


def prefix(text: str) -> str:
    """Return the canonical form of ``address/length``. Raises :class:`NotAPrefix` for anything else."""
    base, slash, length = text.partition("/")
    try:
        parsed = _address(base)
    except ValueError as error:
        raise NotAPrefix(f"{text!r} is not a prefix", "write address/length, as 203.0.113.0/24") from error
    width = WIDTH[parsed.version]
    if not slash:
        raise NotAPrefix(f"{text!r} has no prefix length", f"one address is {parsed}/{width}")
    # Digits only: netaddr would also take a netmask, which Kubernetes does not.
    # Python refuses to convert a number of thousands of digits, so the number of digits is checked first.
    if not (length.isascii() and length.isdigit()) or len(length) > len("128") or int(length) > width:
        raise NotAPrefix(f"{text!r} is not a prefix", f"the length is a number from 0 to {width}")
    network = netaddr.IPNetwork((int(parsed), int(length)), version=parsed.version)
    if network.first != int(parsed):
        raise NotAPrefix(f"{text!r} has host bits set", f"the network is {network.cidr}")
    return str(network)


@lru_cache(maxsize=1 << 14)
def span(text: str) -> Span:
    """Return the numbers of a prefix. Raises :class:`ValueError`."""
    network = netaddr.IPNetwork(text)
    return Span(network.version, network.first, network.last, network.prefixlen)


@lru_cache(maxsize=1 << 14)
def host(text: str) -> str:
    """Return the prefix that contains only this address."""
    return f"{text}/{WIDTH[number(text)[0]]}"


def text(family: Family, number: int) -> str:
    """Return the address with this number, in canonical form."""
    return str(netaddr.IPAddress(number, family))


def around(address_text: str, length: int) -> str:
    """Return the prefix of this length that holds an address, in canonical form."""
    network = netaddr.IPNetwork(address_text)
    network.prefixlen = length
    return str(network.cidr)


def complement(family: Family, texts: Iterable[str]) -> list[str]:
    """Return the fewest prefixes that contain all addresses of a family except those in ``texts``, ascending."""
    found: list[str] = []
    free = 0
    for taken in sorted(span(text)[1:3] for text in texts):
        found += cover(family, free, taken[0] - 1)
        free = max(free, taken[1] + 1)
    return [*found, *cover(family, free, (1 << WIDTH[family]) - 1)]


def cover(family: Family, first: int, last: int) -> Iterator[str]:
    """Yield the fewest prefixes that contain exactly the addresses ``first`` to ``last``, ascending."""
    # netaddr.iprange_to_cidrs does the same, forty times slower.
    while first <= last:
        room = (last - first + 1).bit_length() - 1
        alignment = (first & -first).bit_length() - 1 if first else WIDTH[family]
        bits = min(room, alignment)
        yield f"{netaddr.IPAddress(first, family)}/{WIDTH[family] - bits}"
        first += 1 << bits
