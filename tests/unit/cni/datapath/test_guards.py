"""Guards behind the routing: a steered packet leaves by its tunnel, on the master by the egress interface, or not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cni.datapath.guards import guards, leaving
from cni.datapath.nft_blocks import Marks
from cni.plan import Plan

from .test_objects import DEVICE, EGRESS, plan

MASTER = replace(EGRESS, interface="eth1", source="172.16.0.1")
"""The egress IP as its master has it."""


def chains(of: Plan) -> dict[str, list[str]]:
    """Return the rules of each chain."""
    text = "".join([*guards(of, Marks(of)), *leaving(of, Marks(of))])
    found = re.findall(r"\tchain (\S+) \{\n(.*?)\t\}\n", text, re.DOTALL)
    return {name: [line.strip() for line in body.splitlines()] for name, body in found}


@pytest.mark.parametrize("node", ["w1", "g1", "g2"])
def test_every_chain_that_accepts_ends_with_a_drop(node: str) -> None:
    egress = MASTER if node != "w1" else EGRESS
    for name, rules in chains(plan(node, egress)).items():
        if re.match(r"(from|out|leave)_\d", name):
            assert rules[-1] == "counter drop", name


def test_a_worker_lets_a_packet_out_by_its_tunnel_only() -> None:
    known, accepted = [rule for rule in chains(plan("w1"))["out_1"] if rule.endswith("accept")]
    assert "ct reply ip daddr 10.0.0.11" in known
    assert f'oifname "{DEVICE}"' in known
    assert f'oifname "{DEVICE}"' in accepted


def test_the_master_lets_its_own_pods_out_by_the_egress_interface_too() -> None:
    accepted = [rule for rule in chains(plan("g1", MASTER))["out_1"] if rule.endswith("accept")]
    assert [re.findall(r'oifname "([^"]+)"', rule)[0] for rule in accepted] == [
        "eth1",
        DEVICE,
        DEVICE,
        "eth1",
    ]


def test_a_connection_that_began_by_the_other_exit_is_reset() -> None:
    resets = [rule for rule in chains(plan("g1", MASTER))["out_1"] if "tcp reset" in rule]
    assert len(resets) == 2
    assert all("ct state established" in rule for rule in resets)


def test_a_node_that_can_be_no_master_lets_nothing_out_of_a_tunnel() -> None:
    assert chains(plan("w1"))["from_1"] == ["counter drop"]


def test_the_source_in_a_tunnel_is_set_before_any_masquerade() -> None:
    nat = chains(plan("w1"))["nat"]
    assert nat[0].startswith("type nat hook postrouting priority srcnat - 10")
    assert any("snat ip to" in rule for rule in nat)


def test_the_mark_is_cleared_before_the_packet_is_encapsulated() -> None:
    marks = Marks(plan("w1"))
    assert marks.clear in chains(plan("w1"))["encap"][-1]


def test_a_node_that_is_in_no_inventory_lets_nothing_into_a_tunnel() -> None:
    assert list(leaving(plan("unknown"), Marks(plan("unknown")))) == []
    accepted = [rule for rule in chains(plan("unknown"))["out_1"] if rule.endswith("accept")]
    assert accepted == []
