"""Objects of the store with values of every wrong type, size and nesting: each is a problem with its name, or valid."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from typing import Any

import yaml

from gateway_agent import config
from gateway_agent.kubernetes import objects
from gateway_agent.manifests import parsing
from gateway_agent.manifests.model import Inventory
from gateway_agent.policy import planner, quarantine
from gateway_agent.policy.egress_node.readiness import InterfaceFacts
from gateway_agent.policy.planner import Planned, Settings

from .frames import some
from .values import mutated

SETTINGS = Settings("w1", 0x0FF00000, 4799, 1450, ("10.244.0.0/16",))
FACTS = {
    "eth0": InterfaceFacts(up=True, carrier=True, mtu=1500, addresses=("172.16.0.21/24",), forwarding=True),
}
GROUP = "egress-gateway.io/v1alpha1"
GOOD: tuple[dict[str, Any], ...] = (
    {
        "apiVersion": GROUP, "kind": "EgressGateway", "metadata": {"name": "good"},
        "spec": {
            "nodeSelector": {"role": "egress"},
            "sourceIP": {"mode": "VirtualIPAddress", "virtualIPAddress": {"ip": "172.16.0.50"}},
        },
    },
    {
        "apiVersion": GROUP, "kind": "EgressGatewayPolicy", "metadata": {"name": "good"},
        "spec": {"egressGatewayName": "good", "selectors": [{"podSelector": {"matchLabels": {"app": "good"}}}]},
    },
    {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "w1", "labels": {"role": "egress"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.16.0.21"}]},
    },
)  # fmt: skip
"""Objects that stay in force beside the object under test."""
CASES: tuple[dict[str, Any], ...] = (
    {
        "apiVersion": GROUP, "kind": "EgressGateway", "metadata": {"name": "case", "labels": {"a": "b"}},
        "spec": {
            "nodeSelector": {"matchLabels": {"role": "egress"}, "matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["a"]}]},
            "sourceIP": {"mode": "VirtualIPAddress", "virtualIPAddress": {
                "ips": ["172.16.0.51", "fd00::51"], "interfaces": ["eth0"], "routingTableName": "x"}},
            "whenNoGateway": "Direct", "failback": "Automatic", "connectionSync": True,
        },
        "status": {"readyNodes": 1},
    },
    {
        "apiVersion": GROUP, "kind": "EgressGateway", "metadata": {"name": "case"},
        "spec": {
            "nodeSelector": {"matchLabels": {"role": "egress"}},
            "sourceIP": {"mode": "VirtualIPAddress",
                         "virtualIPAddress": {"ip": "172.16.0.52", "interfaces": ["eth0"]}},
            "routing": {"nextHops": ["172.16.0.1", "fd00::1"], "prefixLength": 24, "prefixLength6": 64},
        },
    },
    {
        "apiVersion": "network.deckhouse.io/v1alpha1", "kind": "EgressGateway", "metadata": {"name": "case"},
        "spec": {
            "nodeSelector": {"role": "egress"},
            "sourceIP": {"mode": "PrimaryIPFromEgressGatewayNodeInterface",
                         "primaryIPFromEgressGatewayNodeInterface": {"interfaceName": "eth0"}},
        },
    },
    {
        "apiVersion": GROUP, "kind": "EgressGatewayPolicy",
        "metadata": {"name": "case", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "egressGatewayName": "good",
            "selectors": [{"podSelector": {"matchLabels": {"app": "x"}}, "namespaceSelector": {"matchExpressions": [
                {"key": "team", "operator": "Exists"}]}}],
            "destinationCIDRs": ["203.0.113.0/24", "2001:db8::/32"], "excludedCIDRs": ["203.0.113.7/32"],
        },
    },
    {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "case", "labels": {"role": "egress"}, "annotations": {"egress-gateway.io/drain": "true"}},
        "spec": {"podCIDRs": ["10.1.0.0/24"], "unschedulable": True},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.16.0.22"},
                                 {"type": "ExternalIP", "address": "192.0.2.22"}],
                   "conditions": [{"type": "Ready", "message": "node is shutting down"}]},
    },
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "case", "labels": {"team": "pay"}}},
    {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "case", "namespace": "prod", "uid": "u", "labels": {"app": "x"}},
        "spec": {"hostNetwork": False, "nodeName": "w1"},
        "status": {"podIPs": [{"ip": "10.244.1.5"}], "phase": "Running"},
    },
    {
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "case"},
        "spec": {"cidrs": ["10.96.0.0/16"]},
    },
)  # fmt: skip
CONFIGURATION: dict[str, Any] = {
    "nodeName": "w1", "runDir": "/run/x", "store": {"kind": "files", "path": "/etc/x"},
    "clusterCIDRs": ["10.244.0.0/16"], "cluster": {"keyFile": "/etc/k", "acceptKeyFiles": ["/etc/k2"], "port": 7947},
    "lease": {"heartbeat": "50ms", "duration": "250ms"}, "quorum": "Strict", "tunnel": {"port": 4799, "mtu": "auto"},
    "mark": {"mask": "0x0ff00000"}, "health": {"upstream": ["10.0.0.1"], "interval": "500ms", "misses": 3},
    "metrics": {"listen": "127.0.0.1:9479", "names": ["node.example"]}, "log": {"level": "info", "format": "text"},
    "engines": {"podman": "/run/x/podman.sock"}, "guard": "On", "guardExcept": ["docker0"], "stateDir": "/var/lib/x",
    "connectionLog": {"file": "/var/log/x/connections.log", "maxSize": "100MB", "keep": 10},
}  # fmt: skip


TEXTS = tuple(yaml.safe_dump_all(documents).encode() for documents in ((CASES[0], *GOOD), CASES, GOOD))


def check(case: Any) -> None:
    """Read and plan one object beside good ones, as both stores do. Raises AssertionError."""
    good = {str(i): parsing.parse_object(f"good {i}", document) for i, document in enumerate(GOOD)}
    assert not any(content.problems for content in good.values())
    content = parsing.parse_object("the case", case)
    assert content.objects or content.problems or _is_foreign(case)
    assert all(problem.source == "the case" for problem in content.problems)
    _check_plan(parsing.assemble({**good, "case": content}))
    _check_cluster(case)


def _is_foreign(case: Any) -> bool:
    """Return True if an object may be passed over: one whose kind or group is another."""
    return isinstance(case, dict) and isinstance(case.get("kind"), str)


def _check_plan(inventory: Inventory) -> Planned:
    planned = planner.build(inventory, SETTINGS, FACTS, {}, pods=inventory.pods)
    assert any(policy.name == "good" for policy in planned.plan.policies)
    assert any(egress.gateway == "good" for egress in planned.plan.egress_ips)
    [policy_set] = [s for s in planned.plan.policy_sets if s.policies == ("good",)]
    assert policy_set.destinations
    return planned


def check_quarantine(rng: random.Random) -> None:
    """Let planning fail on some objects of any kind: each of them is named, and no other one is left out."""
    contents = {str(i): parsing.parse_object(f"{i}", document) for i, document in enumerate((*GOOD, *CASES))}
    inventory = parsing.assemble(contents)
    every = [(kind, each) for kind in quarantine.KINDS for each in quarantine._objects(inventory, kind)]
    bad = rng.sample(every, rng.randint(1, 3))

    def attempt(tried: Inventory) -> Planned:
        if any(each in quarantine._objects(tried, kind) for kind, each in bad):
            raise ZeroDivisionError
        return planner.build(tried, SETTINGS, FACTS, {}, pods=tried.pods)

    planned = quarantine.Quarantine().search(inventory, attempt)
    named = [
        problem for problem in planned.problems if "cannot be planned: ZeroDivisionError" in problem.message
    ]
    assert len(named) == len(bad)


def _check_cluster(case: Any) -> None:
    if not isinstance(case, dict):
        return
    kinds = {resource.kind: resource for resource in objects.resources("egress-gateway.io", "w1", "x")}
    kept = [objects.prune(kinds[document["kind"]], document) for document in GOOD]
    resource = kinds.get(case["kind"]) if isinstance(case.get("kind"), str) else None
    if resource is not None:
        kept.append(objects.prune(resource, case))
    _check_plan(objects.InventoryBuilder().inventory(kept))


def check_configuration(value: Any) -> None:
    """Read an ``agent.yaml``: a configuration, or ConfigError with problems."""
    try:
        config.parse("agent.yaml", _written(value), "w1")
    except config.ConfigError as error:
        assert error.problems


def check_text(text: str) -> None:
    """Read a damaged file: objects and problems, and what can be read is the same when it is read again."""
    content = parsing.parse_file("a.yaml", text)
    again = parsing.parse_file("a.yaml", parsing.readable("a.yaml", text))
    assert not again.problems
    assert _without_sources(again) == _without_sources(content)


def _without_sources(content: parsing.FileContent) -> dict[tuple[str, str], Any]:
    """Return the objects that count, whichever document they stand in."""
    first: dict[tuple[str, str], Any] = {}
    for item in content.objects:
        value: Any = item.value
        plain = dataclasses.replace(value, source="") if hasattr(value, "source") else value
        first.setdefault((item.kind, item.name), plain)
    return first


def _written(value: Any) -> str:
    """Return ``value`` as YAML, or as Python writes it if YAML has no such value.

    The dumper in C is much faster and refuses a lone surrogate, which the other one escapes.
    """
    for dumper in (getattr(yaml, "CSafeDumper", yaml.SafeDumper), yaml.SafeDumper):
        with contextlib.suppress(yaml.YAMLError, ValueError, TypeError, UnicodeError, RecursionError):
            return str(yaml.dump(value, Dumper=dumper))
    return str(value)


def once(rng: random.Random) -> None:
    """Try one random document."""
    check(mutated(rng.choice(CASES), rng))
    check_text(some(rng.choice(TEXTS), rng).decode(errors="replace"))
    check_configuration(mutated(CONFIGURATION, rng))
    check_quarantine(rng)
