"""Which sources are compared before they are looked up."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from cni.datapath import objects, source_guard, steering
from cni.datapath.steering import Address
from tests.netns.datapath_lab import plan

ADDRESSES = st.lists(st.ip_addresses().map(str), max_size=40, unique=True)
SMALL = st.lists(st.integers(0, 60).map(lambda last: f"10.244.0.{last}"), max_size=40, unique=True)


def compared(reserved: list[str]) -> list[tuple[Address, Address]]:
    """Return the first and last addresses of the ranges whose packets are not looked up."""
    rules = source_guard.forward_rules(replace(plan("w1"), reserved_sources=tuple(reserved)))
    return [pair for rule in rules if rule.endswith("goto forwarded") for pair in _ranges(rule)]


def _ranges(rule: str) -> Iterator[tuple[Address, Address]]:
    """Yield the ranges of one rule: what is left of one around a hole, or of every address."""
    if "saddr" not in rule:
        return
    end = "255.255.255.255" if rule.startswith("ip ") else "ffff:" * 7 + "ffff"
    start = "0.0.0.0" if rule.startswith("ip ") else "::"
    around = re.search(r"saddr ([0-9a-f:][^ -]*)-?(\S*)", rule)
    hole = re.search(r"saddr != ([^ -]+)-?(\S*)", rule)
    first, last = (around[1], around[2] or around[1]) if around else (start, end)
    if not hole:
        yield ipaddress.ip_address(first), ipaddress.ip_address(last)
        return
    yield ipaddress.ip_address(first), ipaddress.ip_address(hole[1]) - 1
    yield ipaddress.ip_address(hole[2] or hole[1]) + 1, ipaddress.ip_address(last)


@given(ADDRESSES | SMALL)
@example(["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"])
def test_no_reserved_address_passes_without_being_looked_up(reserved: list[str]) -> None:
    ranges = compared(reserved)
    for address in map(ipaddress.ip_address, reserved):
        for first, last in ranges:
            assert first.version != address.version or not int(first) <= int(address) <= int(last)


@given(ADDRESSES | SMALL)
def test_few_ranges_are_compared_and_the_widest_ones(reserved: list[str]) -> None:
    networks = [ipaddress.ip_network(address) for address in reserved]
    for version in (4, 6):
        ranges = [pair for pair in compared(reserved) if pair[0].version == version]
        every = list(steering.gaps([network for network in networks if network.version == version]))
        widths = sorted((int(last) - int(first) for first, last in every), reverse=True)
        found = sorted((int(last) - int(first) for first, last in ranges), reverse=True)
        assert found == widths[:2]


def test_what_is_in_no_compared_range_is_looked_up_before_it_goes_on() -> None:
    text = objects.node_nft(plan("w1"))
    body = text[text.index("chain forward_guard {") :].partition("}")[0]
    assert body.split("\n")[-2] == "\t\tgoto forward_checked"
    body = text[text.index("chain forward_checked {") :].partition("}")[0]
    assert body.split("\n")[-3:-1] == ["\t\tjump pod_source", "\t\tgoto forwarded"]


def test_without_reserved_addresses_nothing_is_compared() -> None:
    assert list(source_guard.forward_rules(replace(plan("w1"), reserved_sources=()))) == []
