"""Whether this node can serve an egress IP now, and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cni.kernel import ids
from cni.plan import PlanEgressIP

from .model import BASIC


@dataclass(frozen=True)
class InterfaceFacts:
    """What the kernel says of one interface."""

    up: bool
    carrier: bool
    mtu: int
    """Bytes."""
    addresses: tuple[str, ...]
    """IPv4 and IPv6 with their prefix lengths, as ``172.16.0.7/24``, of each family the primary one first. Virtual
    addresses are not among them."""
    forwarding: bool
    """``net.ipv4.conf.<interface>.forwarding``: without it the kernel drops the answers from outside."""
    forwarding6: bool = False
    """``net.ipv6.conf.all.forwarding``: the kernel asks no other, an interface's own makes it only a router."""
    default_route: frozenset[int] = frozenset()
    """The families (4, 6) whose default route leads out by it."""
    uplink: bool = False
    """Any default route, in any routing table that is not ours, leads out by it."""
    source_check: int = 0
    """``net.ipv4.conf.all.rp_filter``: the larger of this and an interface's own counts."""
    foreign: frozenset[str] = frozenset()
    """Virtual addresses that somebody else has configured on it."""

    @property
    def address(self) -> str:
        """The primary IPv4 address; empty where it has none."""
        return next((bare(address) for address in self.addresses if ":" not in address), "")


def bare(address: str) -> str:
    """Without the prefix length."""
    return address.partition("/")[0]


def unready(
    egress: PlanEgressIP,
    interface: str,
    facts: Mapping[str, InterfaceFacts],
    silent_upstream: Sequence[str] = (),
    named: Sequence[str] = (),
    underlay: int = 4,
) -> str:
    """Why this node cannot be master of ``egress``; empty where it can.

    ``interface`` is the one that the gateway names, in virtual-IP mode the one that was chosen: empty where there is
    none. ``named`` are those that the gateway allows in virtual-IP mode, ``silent_upstream`` the upstream addresses
    that do not answer, ``underlay`` the family that the tunnels are over.
    """
    if not interface and egress.mode != BASIC:
        return _nowhere(egress, named)
    known = facts.get(interface)
    if known is None:
        return f"interface {interface} does not exist"
    if not known.up:
        return f"interface {interface} is down"
    if not known.carrier:
        return f"interface {interface} has no carrier"
    reason = _wrong_basic(egress, interface, known) if egress.mode == BASIC else _wrong_virtual(egress, facts)
    if reason:
        return reason
    if egress.family == 6 and not known.forwarding6:
        return "this node does not forward IPv6: sysctl -w net.ipv6.conf.all.forwarding=1"
    if egress.family == 4 and not known.forwarding:
        return f"interface {interface} does not forward: sysctl -w net.ipv4.ip_forward=1"
    if egress.family == 4 and not takes_ipv4(facts, underlay == 6 or egress.sync):
        return UNROUTED
    if silent_upstream:
        return f"upstream {', '.join(silent_upstream)} does not answer"
    return ""


UNROUTED = (
    "the kernel drops IPv4 packets out of the tunnels: net.ipv4.conf.all.rp_filter is on, and this node has no IPv4 "
    "default route"
)


def source_check(facts: Mapping[str, InterfaceFacts]) -> bool:
    """Return True if the kernel checks IPv4 sources on the tunnels, whatever is set on them.

    The larger of ``all`` and a device's own setting counts, so with ``all`` on, ours can only be checked loosely. Else
    the check is off: answers out of a tunnel come from addresses that this node may have no route to.
    """
    return any(fact.source_check for fact in facts.values())


def takes_ipv4(facts: Mapping[str, InterfaceFacts], derived: bool) -> bool:
    """Return True if the kernel takes IPv4 packets out of the tunnels.

    ``derived``: some of their sources are no node's address, so no route but the default one leads to them: all over
    an IPv6 underlay, and those of synced connections; on a worker, the answers from outside.
    """
    checked = derived and source_check(facts)
    return not checked or any(4 in fact.default_route for fact in facts.values())


def _nowhere(egress: PlanEgressIP, named: Sequence[str]) -> str:
    if named:
        return f"no interface for {egress.address}: there is no {' and no '.join(named)}"
    return (
        f"no interface for {egress.address}: none has a subnet that holds it, and there is no IPv{egress.family} "
        "default route"
    )


def _wrong_basic(egress: PlanEgressIP, interface: str, known: InterfaceFacts) -> str:
    if not known.address:
        return f"interface {interface} has no IPv4 address"
    if known.address != egress.source:
        return f"interface {interface} has just got address {known.address}"
    return ""


def _wrong_virtual(egress: PlanEgressIP, facts: Mapping[str, InterfaceFacts]) -> str:
    holders = sorted(name for name, known in facts.items() if egress.address in known.foreign)
    return f"{egress.address} is configured on {', '.join(holders)} by somebody else" if holders else ""


def tunnel_mtu(facts: Mapping[str, InterfaceFacts], node_address: str) -> int:
    """What the interface with this address leaves to a tunnel, bytes; Ethernet's where none has it."""
    underlay = next((fact.mtu for fact in facts.values() if node_address in map(bare, fact.addresses)), 1500)
    return underlay - ids.VXLAN_OVERHEAD[6 if ":" in node_address else 4]
