"""What egressctl shows of gateways with virtual addresses."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from cni.calls.attachments import Attachment
from cni.kernel import ids
from cni.plan import PodIdentity, Requirement, Selector, choose
from gateway_agent.lease.ipc import EgressState, KeeperState
from gateway_agent.manifests.model import BASIC, VIRTUAL_IP, Gateway, Inventory, Node, Policy
from gateway_agent.policy import planner
from gateway_agent.policy.egress_node.readiness import InterfaceFacts
from gateway_agent.show import status
from gateway_agent.show.status import NodeSnapshot

FOURS, SIX = ("172.16.0.50", "172.16.0.78"), "2001:db8::50"
EGRESS = (Requirement("role", "In", ("egress",)),)
ALL = (Selector((Requirement("app", "In", ("backend",)),)),)
GATEWAYS = (
    Gateway("partner", EGRESS, VIRTUAL_IP, addresses=(*FOURS, SIX)),
    Gateway("plain", EGRESS, BASIC, "eth1"),
)
POLICIES = (
    Policy("both", "partner", ALL, ("203.0.113.0/24", "2001:db8:f::/48")),
    Policy("six", "plain", ALL, ("198.51.100.0/24", "2001:db8:e::/48")),
)
NODES = (
    Node("g1", {"role": "egress"}, ("10.0.0.7",)),
    Node("g2", {"role": "egress"}, ("10.0.0.8",)),
    Node("w1", {}, ("10.0.0.21",)),
)
MASTERS = {FOURS[0]: "g1", FOURS[1]: "g2", SIX: "g1"}
IDS = {address: ids.egress_id("partner", address) for address in MASTERS}
PODS = tuple(PodIdentity("prod", f"web-{number}", {"app": "backend"}) for number in range(8))


def view(
    node: str = "w1", nodes: tuple[Node, ...] = NODES, direct: Literal["Drop", "Direct"] = "Drop"
) -> NodeSnapshot:
    gateways = tuple(replace(gateway, when_no_gateway=direct) for gateway in GATEWAYS)
    inventory = Inventory(gateways, POLICIES, nodes)
    states = [EgressState(IDS[a], master, 3, 1795294800.0, "none", "", a) for a, master in MASTERS.items()]
    states += [EgressState(ids.egress_id("plain", ""), "g2", 5, 1795294800.0, "none", "", "172.16.0.8")]
    keeper = KeeperState("w1", 1, tuple(states), (), ("g1", "g2", "w1"), 1, False, {})
    facts = {
        "eth1": InterfaceFacts(up=True, carrier=True, mtu=1500, addresses=("172.16.0.7/24",), forwarding=True)
    }
    masters = {state.id: (state.master, state.epoch) for state in states}
    settings = planner.Settings(node, 0x0FF00000, 4799, 1450)
    plan = planner.build(inventory, settings, facts, masters, pods=PODS).plan
    attachments = []
    for pod in PODS:
        policy_set = plan.set_for(pod, ("both", "six"))
        assert policy_set is not None
        attachments.append(
            Attachment(f"c-{pod.name}", "eth0", "", f"veth-{pod.name}", "prod", pod.name, "", dict(pod.labels or {}),
                       ("10.1.0.5",), policy_set.group)
        )  # fmt: skip
    return NodeSnapshot(plan, inventory, tuple(attachments), keeper)


def mine(pod: PodIdentity) -> str:
    """Return the IPv4 address that the pod is to be seen by."""
    return {IDS[address]: address for address in FOURS}[choose(pod, [IDS[address] for address in FOURS])]


def test_status_has_an_entry_for_each_address() -> None:
    shown = [e for e in status.status(view())["egressIPs"] if e["gateway"] == "partner"]
    assert [(e["ip"], e["mode"], e["master"], e["epoch"]) for e in shown] == [
        (address, VIRTUAL_IP, master, 3) for address, master in MASTERS.items()
    ]
    counted = {e["ip"]: e["pods"] for e in shown}
    expected = [mine(pod) for pod in PODS]
    assert counted == {SIX: len(PODS), **{address: expected.count(address) for address in FOURS}}
    assert all(counted.values()), "both addresses are in use, or the test shows nothing"


def test_pods_have_a_row_for_each_of_their_addresses() -> None:
    for pod in PODS:
        rows = [row for row in status.pods(view())["pods"] if row["name"] == pod.name]
        assert [(r["gateway"], r["policies"], r["ip"], r["via"]) for r in rows] == [
            ("partner", ["both"], mine(pod), MASTERS[mine(pod)]),
            ("partner", ["both"], SIX, "g1"),
            ("plain", ["six"], "172.16.0.8", "g2"),
        ]


def test_explain_by_the_family_of_the_destination() -> None:
    for pod in PODS:
        four = status.explain(view(), pod.name, "203.0.113.10")
        assert (four["verdict"], four["ip"], four["via"]) == ("gateway", mine(pod), MASTERS[mine(pod)])
        assert ("gateway", f"partner {mine(pod)}") in [(s["step"], s["result"]) for s in four["steps"]]
        six = status.explain(view(), pod.name, "2001:db8:f::10")
        assert (six["verdict"], six["ip"], six["via"]) == ("gateway", SIX, "g1")


@pytest.mark.parametrize(("choice", "verdict"), [("Drop", "dropped"), ("Direct", "direct")])
def test_explain_a_family_that_the_gateway_does_not_have(
    choice: Literal["Drop", "Direct"], verdict: str
) -> None:
    answer = status.explain(view(direct=choice), "web-0", "2001:db8:e::10")
    assert (answer["verdict"], answer["via"]) == (verdict, "")
    assert answer["steps"][-1]["reason"].startswith("the gateway has no IPv6 address: ")
    whole = status.explain(view(direct=choice), "web-0")
    destinations = {(each["gateway"], each["prefixes"][0]): each["verdict"] for each in whole["ways"]}
    assert destinations == {
        ("partner", "203.0.113.0/24"): "gateway", ("partner", "2001:db8:f::/48"): "gateway",
        ("plain", "198.51.100.0/24"): "gateway", ("plain", "2001:db8:e::/48"): verdict,
    }  # fmt: skip


def test_explain_on_the_master_names_its_interface() -> None:
    seen = view("g1")
    pod = next(pod for pod in PODS if MASTERS[mine(pod)] == "g1")
    answer = status.explain(seen, pod.name, "203.0.113.10")
    assert answer["steps"][-1]["reason"] == f"no tunnel, this node is the master: SNAT to {mine(pod)} on eth1"


def test_a_master_that_has_lost_its_label_is_shown_while_it_serves() -> None:
    nodes = (replace(NODES[0], labels={}), *NODES[1:])
    shown = {e["ip"]: e for e in status.status(view(nodes=nodes))["egressIPs"]}
    assert (shown[FOURS[0]]["master"], shown[FOURS[0]]["eligible"]) == ("g1", ["g2"])
    assert status.explain(view(nodes=nodes), "web-0", "2001:db8:f::10")["via"] == "g1"
    gone = {e["ip"]: e for e in status.status(view(nodes=NODES[1:]))["egressIPs"]}
    assert gone[FOURS[0]]["master"] == ""
