"""The answers of egressctl status, pods and events."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from cni.calls.attachments import Attachment
from cni.kernel import ids
from cni.plan import PodIdentity, Requirement, Selector
from gateway_agent.lease.ipc import Change, EgressState, KeeperState, MemberState
from gateway_agent.manifests.model import BASIC, Gateway, Inventory, Node, Policy, Problem
from gateway_agent.policy import planner
from gateway_agent.policy.egress_node.readiness import InterfaceFacts
from gateway_agent.show import status
from gateway_agent.show.status import NodeSnapshot

AT_S = 1795294800.0
"""2026-11-21T21:00:00Z"""
EGRESS = (Requirement("role", "In", ("egress",)),)
PARTNER, BANK = ids.egress_id("partner", ""), ids.egress_id("bank", "")


def selecting(
    key: str, value: str, namespaces: tuple[Requirement, ...] | None = None
) -> tuple[Selector, ...]:
    return (Selector((Requirement(key, "In", (value,)),), namespaces),)


INVENTORY = Inventory(
    gateways=(
        Gateway("bank", EGRESS, BASIC, "eth2"),
        Gateway("partner", EGRESS, BASIC, "eth1"),
    ),
    policies=(
        Policy("backend", "partner", selecting("app", "backend"), ("203.0.113.0/24",), ("203.0.113.7/32",)),
        Policy("payments", "bank", selecting("pay", "yes", (Requirement("team", "In", ("pay",)),)),
               ("203.0.113.128/25", "198.51.100.0/24")),
    ),
    nodes=(
        Node("g1", {"role": "egress"}, ("172.16.0.7",)),
        Node("g2", {"role": "egress"}, ("172.16.0.8",)),
        Node("w1", {}, ("172.16.0.21",)),
    ),
    namespaces={"prod": {"team": "pay"}},
    pods=(PodIdentity("prod", "elsewhere", {"app": "backend"}),),
)  # fmt: skip


SHOWN = {"g1": "192.0.2.7", "g2": "192.0.2.8"}
"""Addresses that differ from those of the inventory: nodes may have a network of their own to the outside."""


def keeper(master: str = "g1", reason: str = "", **more: Any) -> KeeperState:
    return KeeperState(
        node="w1",
        incarnation=1,
        egress=(
            EgressState(PARTNER, master, 3, AT_S if master else 0, "none", reason, SHOWN.get(master, "")),
            EgressState(BANK, "g2", 5, AT_S, "none", "", SHOWN["g2"]),
        ),
        members=(MemberState("g1", True, True, "", 40), MemberState("g2", False, False, "silent", -1)),
        voters=("g1", "g2", "w1"),
        voter_set=2,
        isolated=False,
        counters={"accepted": 9, "bad_mac": 1},
        **more,
    )


def attached(view_plan: Any, name: str, labels: dict[str, str], policies: tuple[str, ...]) -> Attachment:
    group = next((s.group for s in view_plan.policy_sets if s.policies == policies), 0)
    host = f"veth-{name}"
    return Attachment(
        "c-" + name, "eth0", "/run/netns/x", host, "prod", name, "", labels, ("10.1.0.5",), group
    )


def view(node: str = "w1", state: KeeperState | None = None, of: Inventory = INVENTORY) -> NodeSnapshot:
    settings = planner.Settings(node, 0x0FF00000, 4799, 1450, ("10.244.0.0/16",))
    state = state or keeper()
    masters = {e.id: (e.master, e.epoch) for e in state.egress}
    facts = {
        "eth1": InterfaceFacts(up=True, carrier=True, mtu=1500, addresses=("192.0.2.7/24",), forwarding=True)
    }
    plan = planner.build(of, settings, facts, masters).plan
    attachments = (
        attached(plan, "api", {"app": "backend"}, ("backend",)),
        attached(plan, "both", {"app": "backend", "pay": "yes"}, ("backend", "payments")),
        attached(plan, "web", {"app": "web"}, ()),
    )
    return NodeSnapshot(
        plan, of, attachments, state, ("10.244.0.0/16",), (Problem("a.yaml", "spec", "is bad", "mend it"),)
    )


def steps(answer: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {step["step"]: (step["result"], step["reason"]) for step in answer["steps"]}


def test_status_of_a_worker() -> None:
    answer = status.status(view())
    assert json.loads(json.dumps(answer)) == answer
    assert (answer["node"], answer["roles"]) == ("w1", ["node"])
    partner = next(e for e in answer["egressIPs"] if e["gateway"] == "partner")
    assert partner == {
        "gateway": "partner", "ip": "192.0.2.7", "mode": BASIC, "master": "g1", "epoch": 3,
        "since": "2026-11-21T21:00:00Z", "state": "none", "reason": "", "pods": 2, "eligible": ["g1", "g2"],
        "survivor": False, "whenNoGateway": "Drop", "lastChange": None, "conflict": "",
    }  # fmt: skip
    assert answer["members"] == [
        {"node": "g1", "alive": True, "ready": True, "reason": "", "lastHeardMs": 40},
        {"node": "g2", "alive": False, "ready": False, "reason": "silent", "lastHeardMs": -1},
    ]
    assert answer["voters"] == ["g1", "g2", "w1"]
    assert answer["counters"] == {"accepted": 9, "bad_mac": 1}
    assert answer["problems"] == [
        {"source": "a.yaml", "path": "spec", "message": "is bad", "hint": "mend it"}
    ]


def test_status_of_the_master_shows_the_address_of_its_interface() -> None:
    answer = status.status(view("g1"))
    assert answer["roles"] == ["node", "gateway"]
    partner = next(e for e in answer["egressIPs"] if e["gateway"] == "partner")
    assert partner["ip"] == "192.0.2.7"


def test_status_before_the_keeper_has_spoken() -> None:
    answer = status.status(dataclasses.replace(view(), lease_daemon=None))
    assert answer["members"] == []
    found = [(e["master"], e["state"], e["since"]) for e in answer["egressIPs"]]
    assert found == [("g2", "none", ""), ("g1", "none", "")]


def test_status_says_why_there_is_no_master_and_how_long_the_last_change_took() -> None:
    change = Change(PARTNER, "g1", "", 3, AT_S, 212, "g1 silent for 212 ms")
    state = keeper("", "no node is ready", changes=(change,))
    partner = next(e for e in status.status(view(state=state))["egressIPs"] if e["gateway"] == "partner")
    assert (partner["master"], partner["ip"], partner["since"]) == ("", "", "")
    assert partner["reason"] == "no node is ready"
    assert partner["lastChange"] == {
        "at": "2026-11-21T21:00:00Z", "gateway": "partner", "ip": "", "before": "g1", "after": "", "epoch": 3,
        "silentMs": 212, "reason": "g1 silent for 212 ms",
    }  # fmt: skip
    assert status.events(view(state=state)) == {"events": [partner["lastChange"]]}


def test_the_keeper_is_ahead_of_the_plan() -> None:
    stale = dataclasses.replace(view(), lease_daemon=keeper("g2"))
    assert stale.plan.egress_ips[1].master == "g1"
    partner = next(e for e in status.status(stale)["egressIPs"] if e["gateway"] == "partner")
    assert (partner["master"], partner["ip"]) == ("g2", "192.0.2.8")


def test_pods() -> None:
    rows = status.pods(view())["pods"]
    assert [(r["name"], r["policies"], r["gateway"], r["ip"], r["via"], r["verdict"]) for r in rows] == [
        ("api", ["backend"], "partner", "192.0.2.7", "g1", "gateway"),
        ("both", ["backend"], "partner", "192.0.2.7", "g1", "gateway"),
        ("both", ["payments"], "bank", "192.0.2.8", "g2", "gateway"),
        ("web", [], "", "", "", "direct"),
    ]
    assert rows[0]["interface"] == "veth-api"
    assert rows[0]["namespace"] == "prod"


def test_pod_whose_tag_means_no_set_is_dropped() -> None:
    seen = view()
    blocked = dataclasses.replace(seen.attachments[0], group=ids.GROUP_BLOCKED)
    seen = dataclasses.replace(seen, attachments=(blocked,))
    assert [r["verdict"] for r in status.pods(seen)["pods"]] == ["dropped"]
    answer = status.explain(seen, "prod/api", "203.0.113.10")
    assert answer["verdict"] == "dropped"
    assert steps(answer)["tag"][0] == "blocked"
