"""The fence's text. What the kernel makes of it: ``tests/netns/test_fence.py``."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.kernel.nftables.update import elements, tables, update
from gateway_agent.gateway_rules.fence import fence_nft

REMOVED = "add table netdev egress_gateway_fence\ndelete table netdev egress_gateway_fence\n"
TABLE = "netdev egress_gateway_fence"


def maps(text: str) -> dict[str, list[str]]:
    return {
        name.split("_")[0]: elements(body)
        for (kind, name), body in tables(text)[TABLE].items()
        if kind == "map"
    }


def test_without_addresses_or_devices_there_is_no_fence() -> None:
    assert fence_nft([], ["eth1"]) == fence_nft(["172.16.0.50"], []) == REMOVED


def test_a_node_without_virtual_addresses_is_fenced_against_tunnel_packets_of_processes() -> None:
    body = tables(fence_nft([], ["eth0", "eth1"], 4799, ("@th,96,24 0x5",)))[TABLE]
    assert "@th,96,24 0x5 return" in body["chain", "tunnel_process"]
    devices = [text for (kind, name), text in body.items() if kind == "chain" and name.startswith("device_")]
    assert len(devices) == 2
    assert all("udp dport 4799 meta skuid >= 0 jump tunnel_process" in text for text in devices)
    assert fence_nft([], [], 4799) == REMOVED


def test_order_and_repetition_make_no_difference() -> None:
    one = fence_nft(["172.16.0.50", "172.16.0.51"], ["eth1", "eth2"])
    assert one == fence_nft(["172.16.0.51", "172.16.0.50", "172.16.0.50"], ["eth2", "eth1", "eth1"])


@pytest.mark.parametrize("name", ["eth*", 'eth1"', "eth1; drop", "", "a" * 16])
def test_no_name_of_a_device_gets_into_the_text_as_more_than_a_name(name: str) -> None:
    assert fence_nft(["172.16.0.50"], [name]) == REMOVED
    assert fence_nft(["172.16.0.50"], ["eth1", name]) == fence_nft(["172.16.0.50"], ["eth1"])


def test_only_addresses_get_in() -> None:
    with pytest.raises(ValueError):
        fence_nft(["172.16.0.50, 0.0.0.0/0"], ["eth1"])


def test_no_rule_about_a_family_without_addresses() -> None:
    assert set(maps(fence_nft(["172.16.0.50"], ["eth1"]))) == {"arp4", "virtual4"}
    assert set(maps(fence_nft(["2001:db8::50"], ["eth1"]))) == {"virtual6"}


numbers = st.sets(
    st.one_of(st.integers(0, 3), st.integers(2**32 - 4, 2**32 - 1), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=8,
)


@given(numbers)
def test_a_map_covers_every_address_once(chosen: set[int]) -> None:
    addresses = [str(ipaddress.IPv4Address(number)) for number in chosen]
    free, speaking = 0, set()
    for element in maps(fence_nft(addresses, ["eth1"]))["virtual4"]:
        between, verdict = element.split(" : ")
        first, last = (int(ipaddress.IPv4Address(end)) for end in (between.split("-") * 2)[:2])
        assert (first, last >= first) == (free, True)
        free = last + 1
        if verdict == "goto allow4":
            speaking |= set(range(first, free))
    assert free == 1 << 32
    assert speaking == chosen


def test_behind_each_map_comes_a_drop() -> None:
    body = tables(fence_nft(["172.16.0.50", "2001:db8::50"], ["eth1"]))[TABLE]
    rules = next(text for (_, name), text in body.items() if name.startswith("device_")).splitlines()
    lookups = [number for number, rule in enumerate(rules) if "vmap" in rule]
    assert len(lookups) == 3
    assert all(re.search(r"^\t\tmeta protocol (arp|ip|ip6) counter drop$", rules[n + 1]) for n in lookups)


def test_an_update_leaves_the_leases_alone() -> None:
    before = fence_nft(["172.16.0.50"], ["eth1"])
    steps = update(before, fence_nft(["172.16.0.50", "172.16.0.51", "2001:db8::50"], ["eth1", "eth2"]))
    assert steps is not None
    # Their sets, and the chains that look into them, are only led to.
    assert not re.search(r"open4|open6|tickets|chain allow|allow\w* \{", "".join(steps))
