"""Packets that count as those of an overlay, and the addresses to which no selected pod sends one."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.datapath import objects, overlay_guard
from cni.datapath.nft_blocks import Marks
from cni.datapath.steering import INTO_OVERLAY_RULE
from cni.plan import Plan, dumps, loads
from tests.netns.datapath_lab import plan

ADDRESSES = st.lists(st.ip_addresses().map(str), max_size=40, unique=True)


def text_of(wanted: Plan) -> str:
    return "".join(overlay_guard.chains(wanted, Marks(wanted)))


def ports(wanted: Plan, chain: str) -> list[int]:
    body = text_of(wanted).partition(f"chain {chain} {{")[2].partition("}")[0]
    return [int(port) for port in re.findall(r"udp dport (\d+) goto", body)]


@pytest.mark.parametrize("chain", ["into_overlay", "overlay_input"])
def test_well_known_ports_and_those_of_devices_count_and_not_that_of_our_tunnels(chain: str) -> None:
    assert ports(plan("w1"), chain) == [4789, 6081, 8472]
    assert ports(plan("w1", overlay_ports=(4789, 7777), port=8472), chain) == [4789, 6081, 7777]


@given(ADDRESSES)
def test_the_maps_cover_every_address_and_drop_exactly_the_reserved_ones(reserved: list[str]) -> None:
    text = text_of(replace(plan("w1"), reserved_sources=tuple(reserved)))
    for version in (4, 6):
        own = [each for each in map(ipaddress.ip_address, reserved) if each.version == version]
        found = re.search(rf"map overlay_nodes{version}_\w+ {{.*?elements = {{ (.*?) }}", text, re.DOTALL)
        assert bool(found) == bool(own)
        if found is None:
            continue
        end = 0
        verdicts = [element.rpartition(" : ") for element in found[1].split(", ")]
        ranges = [(*key.partition("-")[::2], verdict) for key, _, verdict in verdicts]
        for first, last, verdict in sorted(ranges, key=lambda each: int(ipaddress.ip_address(each[0]))):
            assert int(ipaddress.ip_address(first)) == end
            end = int(ipaddress.ip_address(last or first)) + 1
            assert (ipaddress.ip_address(first) in own) == (verdict == "goto overlay_drop")
        assert end == 1 << (32 if version == 4 else 128)


def test_both_ends_are_asked() -> None:
    text = objects.node_nft(plan("w1"))
    for chain, rule in (
        ("own_source", INTO_OVERLAY_RULE),
        ("unsteered_pod", INTO_OVERLAY_RULE),
        ("steer_1", INTO_OVERLAY_RULE),
        ("input_guard", overlay_guard.RECEIVE_RULE),
    ):
        assert rule in text.partition(f"chain {chain} {{")[2].partition("}")[0]


def test_no_packet_that_may_be_of_an_overlay_goes_on_before_the_guard_has_seen_it() -> None:
    wanted = plan("w1", overlay_ports=(7777,))
    text = objects.node_nft(wanted)
    for chain, rule in (("own_source", INTO_OVERLAY_RULE), ("input_guard", overlay_guard.RECEIVE_RULE)):
        before = text.partition(f"chain {chain} {{")[2].partition(rule)[0].splitlines()
        accepted = [each for each in before if each.endswith(" accept")]
        short = (overlay_guard.no_overlay(wanted), *overlay_guard.no_overlay_of(wanted))
        assert all(any(of in each for of in short) for each in accepted)
        assert accepted


def test_a_datagram_to_any_port_of_an_overlay_is_none_of_others() -> None:
    datagrams, segments = overlay_guard.no_overlay_of(plan("w1", overlay_ports=(7777,)))
    assert re.findall(r"th dport != (\d+)", datagrams) == ["4789", "6081", "7777", "8472"]
    assert (datagrams.split(" th ")[0], segments) == ("meta l4proto udp", "meta l4proto tcp")


def test_the_plan_of_an_older_agent_refuses_no_address_of_this_node() -> None:
    older = json.loads(dumps(plan("w1")))
    del older["overlay_addresses"], older["overlay_ports"]
    assert "chain overlay_target" in (text := text_of(loads(json.dumps(older))))
    assert "drop" not in text.partition("chain overlay_target {")[2].partition("}")[0]


@pytest.mark.parametrize("ports", [[0], [65536], ["8472"], 8472, [True]])
def test_what_is_no_port_is_no_plan(ports: object) -> None:
    damaged = {**json.loads(dumps(plan("w1"))), "overlay_ports": ports}
    with pytest.raises(ValueError, match="not a plan"):
        loads(json.dumps(damaged))
