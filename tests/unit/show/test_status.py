"""What egressctl shows: status, pods, events, explain."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from cni.attachments import Attachment
from cni.kernel import ids
from cni.plan import PodIdentity, Requirement, Selector
from gateway_agent.container_engines.documents import Container, Listing, beside
from gateway_agent.lease.ipc import Change, EgressState, KeeperState, MemberState
from gateway_agent.manifests.model import BASIC, Gateway, Inventory, Node, Policy, Problem
from gateway_agent.policy import planner
from gateway_agent.policy.readiness import InterfaceFacts
from gateway_agent.show import status
from gateway_agent.show.status import NodeSnapshot, NotKnown

AT = 1795294800.0
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
"""Not the addresses of the inventory: nodes may have a network of their own to the outside."""


def keeper(master: str = "g1", reason: str = "", **more: Any) -> KeeperState:
    return KeeperState(
        node="w1",
        incarnation=1,
        egress=(
            EgressState(PARTNER, master, 3, AT if master else 0, "none", reason, SHOWN.get(master, "")),
            EgressState(BANK, "g2", 5, AT, "none", "", SHOWN["g2"]),
        ),
        members=(MemberState("g1", True, True, "", 40), MemberState("g2", False, False, "unheard", -1)),
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
        {"node": "g2", "alive": False, "ready": False, "reason": "unheard", "lastHeardMs": -1},
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
    answer = status.status(dataclasses.replace(view(), keeper=None))
    assert answer["members"] == []
    found = [(e["master"], e["state"], e["since"]) for e in answer["egressIPs"]]
    assert found == [("g2", "none", ""), ("g1", "none", "")]


def test_status_says_why_there_is_no_master_and_how_long_the_last_change_took() -> None:
    change = Change(PARTNER, "g1", "", 3, AT, 212, "g1 unheard for 212 ms")
    state = keeper("", "no node is ready", changes=(change,))
    partner = next(e for e in status.status(view(state=state))["egressIPs"] if e["gateway"] == "partner")
    assert (partner["master"], partner["ip"], partner["since"]) == ("", "", "")
    assert partner["reason"] == "no node is ready"
    assert partner["lastChange"] == {
        "at": "2026-11-21T21:00:00Z", "gateway": "partner", "ip": "", "before": "g1", "after": "", "epoch": 3,
        "silentMs": 212, "reason": "g1 unheard for 212 ms",
    }  # fmt: skip
    assert status.events(view(state=state)) == {"events": [partner["lastChange"]]}


def test_the_keeper_is_ahead_of_the_plan() -> None:
    stale = dataclasses.replace(view(), keeper=keeper("g2"))
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


def test_pod_whose_tag_stands_for_nothing_is_dropped() -> None:
    seen = view()
    blocked = dataclasses.replace(seen.attachments[0], group=ids.GROUP_BLOCKED)
    seen = dataclasses.replace(seen, attachments=(blocked,))
    assert [r["verdict"] for r in status.pods(seen)["pods"]] == ["dropped"]
    answer = status.explain(seen, "prod/api", "203.0.113.10")
    assert answer["verdict"] == "dropped"
    assert steps(answer)["tag"][0] == "blocked"


def test_explain_by_tunnel() -> None:
    answer = status.explain(view(), "prod/api", "203.0.113.10")
    assert (answer["pod"], answer["destination"]) == ("prod/api", "203.0.113.10")
    assert (answer["verdict"], answer["via"], answer["ip"]) == ("gateway", "g1", "192.0.2.7")
    device = ids.device(ids.vni(PARTNER))
    assert steps(answer) == {
        "pod": ("attached by veth-api", "labels of its CNI call or container engine: app=backend"),
        "policy backend": ("selects it", "gateway partner"),
        "policy payments": ("does not select it", "pay In (yes) fails: there is no such label"),
        "tag": ("1: backend", ""),
        "destination": ("203.0.113.0/24 of policy backend", ""),
        "gateway": ("partner", BASIC),
        "master": ("g1", "epoch 3"),
        "path": ("gateway", f"by tunnel {device} to g1 (172.16.0.7), SNAT there to 192.0.2.7"),
    }  # fmt: skip


def test_explain_on_the_master_itself() -> None:
    answer = status.explain(view("g1"), "api", "203.0.113.10")
    assert (answer["via"], answer["ip"]) == ("g1", "192.0.2.7")
    assert steps(answer)["path"][1] == "no tunnel, this node is the master: SNAT to 192.0.2.7 on eth1"


@pytest.mark.parametrize(
    ("pod", "destination", "reason"),
    [
        ("api", "203.0.113.7", "backend: excluded by 203.0.113.7/32"),
        ("api", "192.0.2.1", "backend: not among its destinations"),
        ("api", "10.244.1.1", "10.244.0.0/16 goes to no gateway: cluster network"),
        ("api", "172.16.0.8", "172.16.0.8/32 goes to no gateway: address of a node"),
        ("api", "127.0.0.1", "127.0.0.0/8 goes to no gateway: loopback"),
        ("web", "203.0.113.10", "no policy applies to the pod"),
    ],
)
def test_explain_direct(pod: str, destination: str, reason: str) -> None:
    answer = status.explain(view(), pod, destination)
    assert (answer["verdict"], answer["via"], answer["ip"]) == ("direct", "", "")
    assert steps(answer)["destination"][1] == reason


def test_explain_which_of_two_policies_wins() -> None:
    answer = status.explain(view(), "both", "203.0.113.200")
    assert (answer["verdict"], answer["via"]) == ("gateway", "g2")
    result, reason = steps(answer)["destination"]
    assert result == "203.0.113.128/25 of policy payments"
    assert reason == "before backend: longest prefix, then age, then name"


@pytest.mark.parametrize(("choice", "verdict"), [("Drop", "dropped"), ("Direct", "direct")])
def test_explain_without_a_master(choice: Any, verdict: str) -> None:
    gateways = tuple(dataclasses.replace(gateway, when_no_gateway=choice) for gateway in INVENTORY.gateways)
    seen = view(state=keeper("", "no node is ready"), of=dataclasses.replace(INVENTORY, gateways=gateways))
    answer = status.explain(seen, "api", "203.0.113.10")
    assert answer["verdict"] == verdict
    assert steps(answer)["master"] == ("none", "no node is ready")
    assert f"whenNoGateway: {choice}" in steps(answer)["path"][1]


def test_explain_without_a_destination_goes_through_the_gateways() -> None:
    answer = status.explain(view(), "both")
    assert answer["destination"] == ""
    assert {(w["gateway"], w["verdict"], w["via"]) for w in answer["ways"]} == {
        ("partner", "gateway", "g1"), ("bank", "gateway", "g2"),
    }  # fmt: skip
    bank = next(w for w in answer["ways"] if w["gateway"] == "bank")
    assert bank["prefixes"] == ["198.51.100.0/24", "203.0.113.128/25"]
    assert status.explain(view(), "web")["verdict"] == "direct"


def test_explain_names_the_namespace_that_does_not_match() -> None:
    of = dataclasses.replace(INVENTORY, namespaces={})
    answer = status.explain(view(of=of), "both", "203.0.113.10")
    assert steps(answer)["policy payments"] == (
        "does not select it", "namespace prod: team In (pay) fails: there is no such label",
    )  # fmt: skip
    assert steps(answer)["tag"] == ("3: backend, payments", "its labels now ask for backend")


def test_explain_a_pod_that_is_not_attached_here() -> None:
    answer = status.explain(view(), "prod/elsewhere", "203.0.113.10")
    assert (answer["verdict"], answer["via"], answer["ip"]) == ("unattached", "", "")
    assert steps(answer)["pod"] == ("not attached to this node", "labels of its Pod document: app=backend")
    assert steps(answer)["policy backend"][0] == "selects it"


def test_explain_a_pod_of_this_node_that_the_plugin_was_not_called_for() -> None:
    answer = status.explain(view(of=dataclasses.replace(INVENTORY, knows_pods=True)), "prod/elsewhere")
    assert answer["verdict"] == "direct"
    assert "uses no gateway" in steps(answer)["path"][1]


def test_explain_a_container_that_runs_beside_the_chain() -> None:
    container = Container("c9", "stray", {"app": "backend"}, 42, "host")
    inventory = dataclasses.replace(INVENTORY, namespaces={})
    [stray] = beside(Listing("podman", "cni", (container,)), (), inventory)
    seen = dataclasses.replace(view(of=inventory), beside={stray.pod: stray})
    answer = status.explain(seen, "stray", "203.0.113.10")
    assert (answer["pod"], answer["verdict"]) == ("default/stray", "direct")
    assert steps(answer)["pod"] == (
        "not attached to this node",
        "labels of its container engine: app=backend",
    )
    assert "it uses the node's network" in steps(answer)["path"][1]


def test_explain_a_pod_whose_labels_nobody_knows() -> None:
    seen = view()
    nameless = dataclasses.replace(
        seen.attachments[0], container_id="c9", name="nameless", labels=None, group=0
    )
    answer = status.explain(dataclasses.replace(seen, attachments=(*seen.attachments, nameless)), "nameless")
    assert steps(answer)["pod"][1] == "its labels are not known"
    assert steps(answer)["policy backend"] == ("may select it", "its labels are not known")
    assert steps(answer)["tag"][0] == "none"
    assert answer["verdict"] == "direct"


def test_explain_a_pod_on_its_nodes_network() -> None:
    of = dataclasses.replace(INVENTORY, on_host={("prod", "elsewhere"): "w1"})
    answer = status.explain(view(of=of), "prod/elsewhere", "203.0.113.10")
    assert answer["verdict"] == "direct"
    assert steps(answer)["pod"][0] == "uses its node's network"
    assert "leave with the node's address" in steps(answer)["path"][1]


@pytest.mark.parametrize(
    ("pod", "destination", "message"),
    [
        ("prod/nobody", "", "no pod 'prod/nobody' is known on node w1"),
        ("api", "example.org", "'example.org' is not an IP address"),
    ],
)
def test_explain_what_is_not_known(pod: str, destination: str, message: str) -> None:
    with pytest.raises(NotKnown, match=message) as raised:
        status.explain(view(), pod, destination)
    assert raised.value.hint


def test_explain_a_name_that_two_namespaces_have() -> None:
    seen = view()
    twin = dataclasses.replace(seen.attachments[0], container_id="other", namespace="test")
    with pytest.raises(NotKnown) as raised:
        status.explain(dataclasses.replace(seen, attachments=(*seen.attachments, twin)), "api")
    assert raised.value.hint == "one of prod/api, test/api"


def test_explain_on_a_node_without_an_address() -> None:
    answer = status.explain(view("w9"), "api", "203.0.113.10")
    assert answer["verdict"] == "dropped"
