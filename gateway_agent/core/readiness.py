"""Whether this node can serve an egress IP now, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cni.kernel import ids
from cni.plan import PlanEgressIP


@dataclass(frozen=True)
class InterfaceFacts:
    """What the kernel says of one interface."""

    up: bool
    carrier: bool
    mtu: int
    """Bytes."""
    addresses: tuple[str, ...]
    """Its IPv4 addresses, the primary one first."""
    forwarding: bool
    """``net.ipv4.conf.<interface>.forwarding``: without it the kernel drops the answers from outside."""

    @property
    def address(self) -> str:
        """The primary IPv4 address; empty where it has none."""
        return self.addresses[0] if self.addresses else ""


def unready(
    egress: PlanEgressIP, interface: str, facts: Mapping[str, InterfaceFacts], silent_upstream: tuple[str, ...] = ()
) -> str:
    """Why this node cannot be master of ``egress``; empty where it can.

    ``interface`` is the one that the gateway names, ``silent_upstream`` the upstream addresses that do not answer.
    """
    known = facts.get(interface)
    if known is None:
        return f"interface {interface} does not exist"
    if not known.up:
        return f"interface {interface} is down"
    if not known.carrier:
        return f"interface {interface} has no carrier"
    if not known.address:
        return f"interface {interface} has no IPv4 address"
    if known.address != egress.source:
        return f"interface {interface} has just got address {known.address}"
    if not known.forwarding:
        return f"interface {interface} does not forward: sysctl -w net.ipv4.ip_forward=1"
    if silent_upstream:
        return f"upstream {', '.join(silent_upstream)} does not answer"
    return ""


def tunnel_mtu(facts: Mapping[str, InterfaceFacts], node_address: str) -> int:
    """What the interface with this address leaves to a tunnel, bytes; Ethernet's where none has it."""
    underlay = next((fact.mtu for fact in facts.values() if node_address in fact.addresses), 1500)
    return underlay - ids.VXLAN_OVERHEAD[6 if ":" in node_address else 4]
