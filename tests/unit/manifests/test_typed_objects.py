"""Fields of single objects: what they mean, what is wrong, and the hint."""

from __future__ import annotations

import json

import pytest

from cni.plan import Requirement, Selector
from gateway_agent.manifests.model import (
    BASIC,
    DRAIN,
    VIRTUAL_IP,
    Gateway,
    Inventory,
    Node,
    Policy,
    Problem,
    Routing,
)

from .manifest_texts import GATEWAY, NODE, POLICY, VIRTUAL, only_problem, parse


def test_basic_gateway_policy_and_node() -> None:
    inventory = parse(GATEWAY, POLICY, NODE)
    assert inventory == Inventory(
        gateways=(
            Gateway(
                "partner", (Requirement("node-role/egress", "In", ("",)),), BASIC, "eth1", source="0.yaml"
            ),
        ),
        policies=(
            Policy(
                "backend-to-partner",
                "partner",
                (Selector((Requirement("app", "In", ("backend",)),)),),
                ("203.0.113.0/24",),
                ("203.0.113.7/32",),
                source="1.yaml",
            ),
        ),
        nodes=(Node("g1", {"node-role/egress": ""}, ("172.16.0.7", "fd00::7"), "2.yaml"),),
    )


def test_virtual_ip_gateway_with_all_fields() -> None:
    (gateway,) = parse(VIRTUAL).gateways
    assert gateway == Gateway(
        name="bank",
        node_selector=(Requirement("zone", "In", ("b", "a")), Requirement("gpu", "DoesNotExist")),
        mode=VIRTUAL_IP,
        addresses=("172.16.0.50", "172.16.0.78"),
        interfaces=("eth1",),
        when_no_gateway="Direct",
        failback="Automatic",
        connection_sync=True,
        source="0.yaml",
        routing=Routing(table_name="external"),
    )


@pytest.mark.parametrize(
    ("old", "new", "path", "message", "hint"),
    [
        ("whenNoGateway: Direct", "whenNoGatway: Direct", "spec.whenNoGatway", "unknown field",
         "did you mean 'whenNoGateway'?"),
        ("whenNoGateway: Direct", "whenNoGateway: drop", "spec.whenNoGateway", "'drop' is not known",
         "did you mean 'Drop'?"),
        ("spec:", "specs:", "spec", "is required", ""),
        ("connectionSync: true", "connectionSync: 'true'", "spec.connectionSync",
         "must be true or false, not a text", ""),
        ("172.16.0.78]", "172.16.0.300]", "spec.sourceIP.virtualIPAddress.ips[1]",
         "'172.16.0.300' is not an IP address", "as 172.16.0.7"),
        ("172.16.0.78]", "172.16.0.50]", "spec.sourceIP.virtualIPAddress.ips", "one address is listed twice", ""),
        ("ips: [172.16.0.50, 172.16.0.78]", "ips: []", "spec.sourceIP.virtualIPAddress.ips", "is empty", ""),
        ("{ips:", "{ip: 172.16.0.1, ips:", "spec.sourceIP.virtualIPAddress.ip", "is given beside ips",
         "either ip or ips"),
        ("ips: [172.16.0.50, 172.16.0.78], ", "", "spec.sourceIP.virtualIPAddress.ip", "is required",
         "either ip or ips"),
        ("[eth1]", "[eth/1]", "spec.sourceIP.virtualIPAddress.interfaces[0]",
         "'eth/1' cannot be the name of an interface", "at most 15 characters, no '/', ':' or space"),
        ("mode: VirtualIPAddress", "mode: VirtualIP", "spec.sourceIP.mode", "'VirtualIP' is not known",
         "did you mean 'VirtualIPAddress'?"),
        ("    mode: VirtualIPAddress\n", "", "spec.sourceIP.mode", "is required",
         "one of PrimaryIPFromEgressGatewayNodeInterface, VirtualIPAddress"),
        ("operator: DoesNotExist", "operator: Exist", "spec.nodeSelector.matchExpressions[1].operator",
         "'Exist' is not known", "did you mean 'Exists'?"),
        ("values: [b, a]", "values: []", "spec.nodeSelector.matchExpressions[0].values",
         "is required with In", ""),
        ("DoesNotExist}", "DoesNotExist, values: [a]}", "spec.nodeSelector.matchExpressions[1].values",
         "has no meaning with DoesNotExist", "leave it out"),
        ("metadata: {name: bank}", "metadata: {name: Bank_1}", "metadata.name", "'Bank_1' is no DNS subdomain",
         "lower-case letters, digits, '-' and '.', at most 253 characters"),
        ("kind: EgressGateway", "kind: EgressGatewy", "kind",
         "egress-gateway.io/v1alpha1 has no kind 'EgressGatewy'", "did you mean 'EgressGateway'?"),
        ("v1alpha1", "v1", "apiVersion", "'egress-gateway.io/v1' is not known", "use egress-gateway.io/v1alpha1"),
    ],
)  # fmt: skip
def test_gateway_errors(old: str, new: str, path: str, message: str, hint: str) -> None:
    assert old in VIRTUAL
    problem = next(p for p in parse(VIRTUAL.replace(old, new)).problems if p.path == path)
    assert (problem.source, problem.message) == ("0.yaml", message)
    assert problem.hint == hint
    assert parse(VIRTUAL.replace(old, new), GATEWAY).gateways == (parse("", GATEWAY).gateways)


def test_sub_object_of_the_other_mode() -> None:
    text = GATEWAY + "    virtualIPAddress: {ip: 172.16.0.50}\n"
    problem = only_problem(text)
    assert problem.path == "spec.sourceIP.virtualIPAddress"
    assert problem.message == f"has no meaning in mode {BASIC}"


@pytest.mark.parametrize("selector", ["{}", "{matchLabels: {}}", "{matchExpressions: []}"])
def test_node_selector_must_select_something(selector: str) -> None:
    problem = only_problem(GATEWAY.replace('{node-role/egress: ""}', selector))
    assert (problem.path, problem.message) == ("spec.nodeSelector", "is empty")


@pytest.mark.parametrize(
    ("prefix", "message", "hint"),
    [
        ("203.0.113.9/24", "'203.0.113.9/24' has host bits set", "the network is 203.0.113.0/24"),
        ("2001:db8::1/32", "'2001:db8::1/32' has host bits set", "the network is 2001:db8::/32"),
        ("203.0.113.9", "'203.0.113.9' has no prefix length", "one address is 203.0.113.9/32"),
        ("203.0.113.0/33", "'203.0.113.0/33' is not a prefix", "the length is a number from 0 to 32"),
        (
            "1.2.3.0/255.255.255.0",
            "'1.2.3.0/255.255.255.0' is not a prefix",
            "the length is a number from 0 to 32",
        ),
        ("10/8", "'10/8' is not a prefix", "write address/length, as 203.0.113.0/24"),
        ("012.0.0.0/8", "'012.0.0.0/8' is not a prefix", "write address/length, as 203.0.113.0/24"),
        ("fe80::%eth0/64", "'fe80::%eth0/64' is not a prefix", "write address/length, as 203.0.113.0/24"),
    ],
)
def test_bad_prefixes(prefix: str, message: str, hint: str) -> None:
    problems = parse(POLICY.replace("203.0.113.0/24", f'"{prefix}"'), GATEWAY).problems
    assert problems == (Problem("0.yaml", "spec.destinationCIDRs[0]", message, hint),)


@pytest.mark.parametrize(
    ("selectors", "path", "message"),
    [
        ("selectors: []", "spec.selectors", "is empty"),
        ("selectors:", "spec.selectors", "is required"),
        ("selectors: [{}]", "spec.selectors[0]", "selects by nothing"),
        ("selectors: [null]", "spec.selectors[0]", "is empty"),
        ("selectors: {podSelector: {}}", "spec.selectors", "must be a list, not a mapping"),
        ("selectors: [{podSelector: {app: x}}]", "spec.selectors[0].podSelector.app", "unknown field"),
        ("selectors: [{podSelector: {matchLabels: {v: 1}}}]", "spec.selectors[0].podSelector.matchLabels.v",
         "must be a text, not a number"),
        ("selectors: [{podSelector: {matchLabels: {v: yes}}}]", "spec.selectors[0].podSelector.matchLabels.v",
         "must be a text, not a boolean"),
        ("selectors: [{podSelector: {matchLabels: {'a b': c}}}]",
         "spec.selectors[0].podSelector.matchLabels.a b", "'a b' cannot be the key of a label"),
        ("selectors: [{podSelectr: {}}]", "spec.selectors[0].podSelectr", "unknown field"),
    ],
)  # fmt: skip
def test_selector_errors(selectors: str, path: str, message: str) -> None:
    text = POLICY.replace("selectors:\n  - podSelector: {matchLabels: {app: backend}}", selectors)
    assert text != POLICY
    inventory = parse(text, GATEWAY)
    assert (path, message) in {(p.path, p.message) for p in inventory.problems}
    assert not inventory.policies


def test_every_problem_of_a_document_is_reported() -> None:
    text = POLICY.replace("203.0.113.0/24", "bad, 1.2.3.4/8").replace(
        "egressGatewayName: partner", "egressGatewy: p"
    )
    assert [p.path for p in parse(text).problems] == [
        "spec.egressGatewayName", "spec.destinationCIDRs[0]", "spec.destinationCIDRs[1]", "spec.egressGatewy",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        (
            "connectionSync: true",
            Problem("0.yaml", "spec.connectionSync", f"has no effect in mode {BASIC}",
                    "connections are copied for virtual addresses only"),
        ),
        (
            "routing: {nextHops: [172.16.0.1, '2001:db8::1']}",
            Problem("0.yaml", "spec.routing.nextHops",
                    "2001:db8::1 has no effect: the gateway shows no IPv6 address"),
        ),
    ],
)  # fmt: skip
def test_a_field_without_effect_is_reported_and_the_gateway_serves(field: str, problem: Problem) -> None:
    inventory = parse(f"{GATEWAY}  {field}\n")
    assert [gateway.name for gateway in inventory.gateways] == ["partner"]
    assert inventory.problems == (problem,)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-21T21:00:00Z", "2026-11-21T21:00:00Z"),
        ('"2026-11-21T23:00:00+02:00"', "2026-11-21T21:00:00Z"),
        ("2026-11-21T21:00:00.987654Z", "2026-11-21T21:00:00Z"),
        ("null", ""),
    ],
)
def test_creation_times_compare_as_texts(written: str, read: str) -> None:
    text = POLICY.replace("{name: backend-to-partner}", f"{{name: p, creationTimestamp: {written}}}")
    inventory = parse(text, GATEWAY)
    assert not inventory.problems
    assert inventory.policies[0].created == read


def test_creation_times_of_gateways_and_nodes_are_read() -> None:
    """What two objects claim belongs to the older one."""
    created = "creationTimestamp: 2026-11-21T21:00:00Z"
    inventory = parse(GATEWAY.replace("{name: partner}", f"{{name: partner, {created}}}"),
                      NODE.replace("{name: g1,", f"{{name: g1, {created},"))  # fmt: skip
    assert not inventory.problems
    created_at = [each.created for each in inventory.gateways] + [each.created for each in inventory.nodes]
    assert created_at == ["2026-11-21T21:00:00Z"] * 2


@pytest.mark.parametrize("written", ["yesterday", "2026-11-21T21:00:00"])
def test_creation_time_without_a_zone_is_an_error(written: str) -> None:
    text = POLICY.replace("{name: backend-to-partner}", f"{{name: p, creationTimestamp: {written}}}")
    assert only_problem(text).path == "metadata.creationTimestamp"


def test_bad_node_address_is_reported() -> None:
    problem = only_problem(NODE.replace("172.16.0.7", "172.16.0.7/24"))
    assert problem.path == "status.addresses[1].address"


def test_external_addresses_of_a_node_are_bounded_and_a_wrong_one_disturbs_nothing() -> None:
    listed = [
        {"type": "ExternalIP", "address": address}
        for address in ("203.0.113.7", "no address", 7, "2001:DB8::7")
    ]
    listed += [{"type": "ExternalIP", "address": f"198.51.100.{number}"} for number in range(100)]
    document = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "g1"},
        "status": {"addresses": listed},
    }
    [node] = parse(json.dumps(document)).nodes
    assert node.addresses == ()
    assert node.external[:3] == ("203.0.113.7", "2001:db8::7", "198.51.100.0")
    assert len(node.external) == 16


def test_longest_names() -> None:
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert len(name) == 253
    assert parse(GATEWAY.replace("{name: partner}", f"{{name: {name}}}")).gateways[0].name == name
    assert only_problem(GATEWAY.replace("{name: partner}", f"{{name: {name}b}}")).path == "metadata.name"


@pytest.mark.parametrize(
    ("value", "drained"), [("'true'", True), ("'false'", False), ("'yes'", False), ("1", False)]
)
def test_a_node_that_is_to_be_drained(value: str, drained: bool) -> None:
    annotated = f"metadata: {{annotations: {{another: x, {DRAIN}: {value}}}, "
    inventory = parse(NODE.replace("metadata: {", annotated))
    assert not inventory.problems
    assert [node.drained for node in inventory.nodes] == [drained]


def test_pods_on_their_nodes_network_are_known() -> None:
    text = """
apiVersion: v1
kind: Pod
metadata: {name: proxy, namespace: kube-system}
spec: {hostNetwork: true, nodeName: w1}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {hostNetwork: false, nodeName: w1}
"""
    assert parse(text).on_host == {("kube-system", "proxy"): "w1"}
