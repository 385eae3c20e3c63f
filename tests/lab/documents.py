"""The documents that the files store reads, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .topology import EGRESS_LABEL, Host

Document = dict[str, Any]
GROUP = "egress-gateway.io"
_API = f"{GROUP}/v1alpha1"


def node(host: Host) -> Document:
    """Return the ``Node`` of a host of the lab."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": host.name, "labels": dict(host.labels or {})},
        "status": {"addresses": [{"type": "InternalIP", "address": host.internal_ip}]},
    }


def gateway(
    name: str, interface: str, nodes: Mapping[str, str] = EGRESS_LABEL, when_no_gateway: str = "Drop"
) -> Document:
    """Return an ``EgressGateway`` in basic mode."""
    source = {
        "mode": "PrimaryIPFromEgressGatewayNodeInterface",
        "primaryIPFromEgressGatewayNodeInterface": {"interfaceName": interface},
    }
    spec = {"nodeSelector": dict(nodes), "sourceIP": source, "whenNoGateway": when_no_gateway}
    return {"apiVersion": _API, "kind": "EgressGateway", "metadata": {"name": name}, "spec": spec}


def virtual_gateway(
    name: str,
    addresses: Sequence[str],
    interfaces: Sequence[str] = (),
    nodes: Mapping[str, str] = EGRESS_LABEL,
    when_no_gateway: str = "Drop",
    failback: str = "Never",
    connection_sync: bool = False,
) -> Document:
    """Return an ``EgressGateway`` with virtual addresses: one as ``ip``, several as ``ips``."""
    source: Document = {"ip": addresses[0]} if len(addresses) == 1 else {"ips": list(addresses)}
    if interfaces:
        source["interfaces"] = list(interfaces)
    spec = {
        "nodeSelector": dict(nodes),
        "sourceIP": {"mode": "VirtualIPAddress", "virtualIPAddress": source},
        "whenNoGateway": when_no_gateway,
        "failback": failback,
        "connectionSync": connection_sync,
    }
    return {"apiVersion": _API, "kind": "EgressGateway", "metadata": {"name": name}, "spec": spec}


def policy(
    name: str,
    gateway_name: str,
    pods: Mapping[str, str],
    destinations: Sequence[str] = (),
    excluded: Sequence[str] = (),
) -> Document:
    """Return an ``EgressGatewayPolicy`` for the pods with these labels."""
    spec: Document = {
        "egressGatewayName": gateway_name,
        "selectors": [{"podSelector": {"matchLabels": dict(pods)}}],
    }
    if destinations:
        spec["destinationCIDRs"] = list(destinations)
    if excluded:
        spec["excludedCIDRs"] = list(excluded)
    return {"apiVersion": _API, "kind": "EgressGatewayPolicy", "metadata": {"name": name}, "spec": spec}


def of_group(document: Document, group: str) -> Document:
    """One of our kinds in another API group; what is of another kind stays."""
    ours = document["apiVersion"] == _API
    return {**document, "apiVersion": f"{group}/v1alpha1"} if ours else document


def basic_mode(interface: str, gateway_name: str = "partner") -> list[Document]:
    """Return a gateway, and a policy that sends pods with ``app: backend`` to the outside service through it."""
    return [gateway(gateway_name, interface), _backend(gateway_name)]


def virtual_ip(
    addresses: Sequence[str],
    gateway_name: str = "partner",
    interfaces: Sequence[str] = (),
    failback: str = "Never",
    connection_sync: bool = False,
    destinations: Sequence[str] = ("203.0.113.0/24",),
) -> list[Document]:
    """As :func:`basic_mode`, but the outside sees virtual addresses."""
    shown = virtual_gateway(
        gateway_name, addresses, interfaces, failback=failback, connection_sync=connection_sync
    )
    return [shown, _backend(gateway_name, destinations)]


def _backend(gateway_name: str, destinations: Sequence[str] = ("203.0.113.0/24",)) -> Document:
    return policy(f"backend-to-{gateway_name}", gateway_name, {"app": "backend"}, destinations)
