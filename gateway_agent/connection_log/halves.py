"""Build the record of a connection through an egress IP from the facts that one node knows, its half. Pure.

The worker knows the pod, and the port of the connection in the tunnel; the master knows its address and port outside.
Both know the source address and port after the worker's source NAT, the destination and the protocol, by which two
halves are joined. For its own pods, the master knows both halves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cni.calls.attachments import Attachment
from cni.kernel import ids
from cni.kernel.netlink.conntrack.ct_flows import Flow
from cni.plan import Plan, PlanEgressIP

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "icmpv6", 132: "sctp", 136: "udplite"}
Pod = tuple[str, str]
"""Namespace and name."""
UNKNOWN_POD: Pod = ("", "")
End = tuple[str, int]
"""Address and port; of ICMP, the identifier."""
UNKNOWN_END: End = ("", 0)


class Half(NamedTuple):
    """A connection as one node sees it. Empty texts, and ports of 0, are not known to this node."""

    gateway: str
    shown: End
    """Egress IP and port outside."""
    protocol: str
    destination: End
    node: str
    """Name of the worker."""
    inside: End
    """Source after the worker's source NAT; empty if the connection uses no tunnel."""
    pod: Pod
    pod_end: End
    """Source of the pod."""

    @property
    def tunnel_key(self) -> tuple[End, End, str]:
        """Return the key that the halves of one connection share."""
        return self.inside, self.destination, self.protocol


@dataclass(frozen=True)
class Knowledge:
    """The pods, gateways and nodes at the ends of connections, from the plan and the attachments."""

    node: str
    layout: ids.MarkLayout
    outgoing: Mapping[int, PlanEgressIP] = field(default_factory=dict)
    """Egress IPs by the masked marks of connections of this node's pods."""
    incoming: Mapping[int, PlanEgressIP] = field(default_factory=dict)
    """Egress IPs by the marks, masked with ``wide``, of connections out of tunnels."""
    wide: int = 0
    served: frozenset[str] = frozenset()
    """Ids of the egress IPs whose master is this node."""
    nodes: Mapping[str, str] = field(default_factory=dict)
    """Names of nodes by the addresses that they have inside tunnels."""
    own: frozenset[str] = frozenset()
    """The addresses of this node inside tunnels."""
    pods: Mapping[str, Pod] = field(default_factory=dict)


def knowledge(plan: Plan, attachments: Iterable[Attachment], before: Mapping[str, Pod]) -> Knowledge:
    """Return the knowledge. ``before``: pods that may be gone, whose connections are still in the table."""
    inner = {
        ids.inner(node.address, family, synced): node.name
        for node in plan.nodes
        for family in (4, 6)
        for synced in (False, True)
    }
    pods: dict[str, Pod] = {}
    for each in attachments:
        for address in each.addresses:
            # Two networks of one node may have the same addresses: then an address does not identify a pod.
            named = each.namespace, each.name
            pods[address] = named if pods.get(address, named) == named else UNKNOWN_POD
    return Knowledge(
        plan.node,
        plan.layout,
        {plan.layout.number(egress.slot): egress for egress in plan.outgoing},
        {plan.layout.taken_in(egress.inlet): egress for egress in plan.incoming},
        plan.layout.wide(max((egress.inlet for egress in plan.incoming), default=0)),
        frozenset(egress.id for egress in plan.egress_ips if plan.serves(egress)),
        inner,
        frozenset(address for address, name in inner.items() if name == plan.node),
        {**before, **pods},
    )


def egress_of(known: Knowledge, mark: int) -> PlanEgressIP | None:
    """Return the egress IP that a connection mark names; None if it names none."""
    if came_by_tunnel(known, mark):
        return known.incoming.get(mark & known.wide)
    return known.outgoing.get(mark & known.layout.mask)


def came_by_tunnel(known: Knowledge, mark: int) -> bool:
    """Return True for a connection of another node's pod."""
    return bool(mark & known.layout.tunneled)


def half(known: Knowledge, flow: Flow, egress: PlanEgressIP) -> Half:
    """Return this node's half of a connection through ``egress``."""
    original, reply = flow.original, flow.reply
    protocol = PROTOCOLS.get(original.protocol, str(original.protocol))
    source = original.source, original.source_port
    if came_by_tunnel(known, flow.mark):
        shown = reply.destination, reply.destination_port
        to = original.destination, original.destination_port
        worker = known.nodes.get(original.source, "")
        return Half(egress.gateway, shown, protocol, to, worker, source, UNKNOWN_POD, UNKNOWN_END)
    pod = known.pods.get(original.source, UNKNOWN_POD)
    # After the DNAT of a Service, the destination is the source of the replies, which have no identifier for ICMP.
    to = reply.source, reply.source_port or original.destination_port
    shown = reply.destination, reply.destination_port or original.source_port
    if shown[0] in known.own and not (egress.id in known.served and shown[0] == egress.source):
        return Half(egress.gateway, (egress.address, 0), protocol, to, known.node, shown, pod, source)
    return Half(egress.gateway, shown, protocol, to, known.node, UNKNOWN_END, pod, source)
