"""The documents that the files store reads, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .topology import EGRESS_LABEL, Host

Document = dict[str, Any]
_API = "egress-gateway.io/v1alpha1"


def node(host: Host) -> Document:
    """The ``Node`` of a host of the lab."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": host.name, "labels": dict(host.labels or {})},
        "status": {"addresses": [{"type": "InternalIP", "address": host.ip}]},
    }


def gateway(
    name: str, interface: str, nodes: Mapping[str, str] = EGRESS_LABEL, when_no_gateway: str = "Drop"
) -> Document:
    """An ``EgressGateway`` in basic mode."""
    source = {
        "mode": "PrimaryIPFromEgressGatewayNodeInterface",
        "primaryIPFromEgressGatewayNodeInterface": {"interfaceName": interface},
    }
    spec = {"nodeSelector": dict(nodes), "sourceIP": source, "whenNoGateway": when_no_gateway}
    return {"apiVersion": _API, "kind": "EgressGateway", "metadata": {"name": name}, "spec": spec}


def policy(
    name: str,
    gateway_name: str,
    pods: Mapping[str, str],
    destinations: Sequence[str] = (),
    excluded: Sequence[str] = (),
) -> Document:
    """An ``EgressGatewayPolicy`` for the pods with these labels."""
    spec: Document = {
        "egressGatewayName": gateway_name,
        "selectors": [{"podSelector": {"matchLabels": dict(pods)}}],
    }
    if destinations:
        spec["destinationCIDRs"] = list(destinations)
    if excluded:
        spec["excludedCIDRs"] = list(excluded)
    return {"apiVersion": _API, "kind": "EgressGatewayPolicy", "metadata": {"name": name}, "spec": spec}


def story(interface: str, gateway_name: str = "partner") -> list[Document]:
    """A gateway, and a policy that sends pods with ``app: backend`` to the outside service through it."""
    name = f"backend-to-{gateway_name}"
    return [
        gateway(gateway_name, interface),
        policy(name, gateway_name, {"app": "backend"}, ["203.0.113.0/24"]),
    ]
