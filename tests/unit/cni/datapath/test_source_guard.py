"""Which sources are compared before they are looked up."""

from __future__ import annotations

import ipaddress
import re
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
    found = [re.fullmatch(r"ip6? saddr (\S+)-(\S+) goto forwarded", rule) for rule in rules]
    return [(ipaddress.ip_address(match[1]), ipaddress.ip_address(match[2])) for match in found if match]


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
        assert [int(last) - int(first) for first, last in ranges] == widths[
            : source_guard.MAX_COMPARED_RANGES
        ]


def test_what_is_in_no_compared_range_is_looked_up_before_it_goes_on() -> None:
    text = objects.node_nft(plan("w1"))
    body = text[text.index("chain forward_guard {") :].partition("}")[0]
    assert body.split("\n")[-3:-1] == ["\t\tjump pod_source", "\t\tgoto forwarded"]


def test_without_reserved_addresses_nothing_is_compared() -> None:
    assert list(source_guard.forward_rules(replace(plan("w1"), reserved_sources=()))) == []
