"""The answers of egressctl explain."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cni.kernel import ids
from gateway_agent.container_engines.documents import Container, Listing, beside
from gateway_agent.manifests.model import BASIC
from gateway_agent.policy.egress_node.exit_paths import Found
from gateway_agent.show import status
from gateway_agent.show.status import NotKnown

from .test_status import INVENTORY, PARTNER, keeper, steps, view


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
    ("found", "verdict", "step"),
    [
        (Found("eth1", "192.0.2.1"), "gateway", ("eth1", "next hop 192.0.2.1")),
        (Found("eth1"), "gateway", ("eth1", "on the link")),
        (
            Found("eth0", "10.0.0.1"),
            "dropped",
            (
                "none",
                "this node routes 203.0.113.10 by eth0 via 10.0.0.1, not by eth1: ip route add … via ROUTER dev eth1, "
                "or name the router in spec.routing.nextHops",
            ),
        ),
    ],
)
def test_explain_says_how_the_master_routes_the_destination(
    found: Found, verdict: str, step: tuple[str, str]
) -> None:
    seen = view("g1")
    served = {egress.id: found for egress in seen.plan.egress_ips if seen.plan.serves(egress)}
    answer = status.explain(dataclasses.replace(seen, exits=served), "api", "203.0.113.10")
    assert answer["verdict"] == verdict
    assert steps(answer)["exit"] == step


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


def test_explain_a_pod_with_unknown_labels() -> None:
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
