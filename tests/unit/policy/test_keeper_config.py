from __future__ import annotations

from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.lease.ipc import EgressIPSpec, Peer
from gateway_agent.policy.keeper_config import KeeperSettings, keeper_config

ID = ids.egress_id("partner", "")
EGRESS = PlanEgressIP(ID, "partner", "", 1, ids.vni(ID), ("g1", "g2"), interface="eth1", source="172.16.0.7")
NODES = (PlanNode("g1", "10.0.0.1"), PlanNode("g2", "10.0.0.2"), PlanNode("w1", "10.0.0.11"))
SETTINGS = KeeperSettings(7947, "/etc/key", 50, 250, False)


def spec(node: str, unready: dict[str, str], devices: tuple[str, ...] = ()) -> EgressIPSpec:
    plan = Plan(node, 0x0FF00000, 4799, 1450, NODES, (EGRESS,))
    [only] = keeper_config(plan, SETTINGS, unready, devices).egress
    return only


def test_every_node_of_the_inventory_is_a_peer() -> None:
    plan = Plan("w1", 0x0FF00000, 4799, 1450, NODES, (EGRESS,))
    config = keeper_config(plan, SETTINGS, {}, (), stopping=True)
    assert config.peers == (
        Peer("g1", "10.0.0.1", True),
        Peer("g2", "10.0.0.2", True),
        Peer("w1", "10.0.0.11", False),
    )
    assert (config.node, config.stopping) == ("w1", True)


@pytest.mark.parametrize(
    ("node", "unready", "ready", "reason"),
    [
        ("g1", {ID: ""}, True, ""),
        ("g1", {ID: "interface eth1 is down"}, False, "interface eth1 is down"),
        ("g1", {}, False, "not looked at yet"),
        ("w1", {}, False, ""),
    ],
)
def test_a_node_is_ready_for_what_it_can_serve(
    node: str, unready: dict[str, str], ready: bool, reason: str
) -> None:
    assert (spec(node, unready).ready, spec(node, unready).reason) == (ready, reason)


@pytest.mark.parametrize(
    ("node", "sync", "mask"), [("g1", True, 0xFF00000), ("g1", False, 0), ("w1", True, 0)]
)
def test_only_an_egress_node_that_syncs_connections_says_its_mark_mask(
    node: str, sync: bool, mask: int
) -> None:
    plan = Plan(node, 0x0FF00000, 4799, 1450, NODES, (replace(EGRESS, sync=sync),))
    facts = keeper_config(plan, SETTINGS, {}, ()).facts
    assert facts is not None
    assert facts.mark_mask == mask


def test_who_is_behind_keeps_what_it_has() -> None:
    plan = Plan("g1", 0x0FF00000, 4799, 1450, NODES, (EGRESS,))
    [only] = keeper_config(plan, SETTINGS, {ID: "behind"}, (), keeping=[ID]).egress
    assert (only.ready, only.keeps, only.leaving) == (False, True, False)


def test_only_who_may_serve_says_what_it_would_show() -> None:
    assert spec("g1", {}).shown == "172.16.0.7"
    assert spec("w1", {}).shown == ""


def test_only_an_existing_tunnel_is_turned() -> None:
    assert spec("w1", {}).device == ""
    assert spec("w1", {}, (EGRESS.device,)).device == EGRESS.device
