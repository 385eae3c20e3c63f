"""Compute the metrics of leases and of refused packets, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from cni.kernel import ids

from ..snapshot import NodeSnapshot
from .form import Family, Sample, counter, gauge

REASONS = {
    "no_master": "no_master",
    "no_gateway": "no_gateway tagged",
    "no_lease": "",
    "guard": "",
    "forged": "arrival own_source unverified_reply reserved_source foreign_source foreign_egress pod_source "
    "marked_source new_connection overlay_drop overlay_destination",
    "unsolicited": "unsolicited inbound inbound_new",
    "stale": "stale middle middle_basic off_path tagged_reply_group port_taken retransmission",
    "tunnel": "tunnel_send tunnel_process tunnel_receive tunnel_out tunnel_forward tunnel_deliver tunnel_back "
    "tunnel_sync input_guard encap",
    "cluster_port": "lease_source lease_own_rate lease_receive lease_send sets_receive forwarded_datagram",
    "no_path": "forward_guard forwarded forwarded_reply from from_tunnel out exit leave steered marked steer set "
    "nat nat_steered nat_taken_in ingress leave_steered leave_taken_in leave_from",
}
"""Names of chains, separated by spaces, by the reason for which they refuse packets. All chains of the fence have one
reason, and so have those of the guard.
"""
OTHER = "other"
OF_TABLE = {ids.NFT_FENCE: "no_lease", ids.NFT_GUARD: "guard"}
OF_CHAIN = {chain: reason for reason, chains in REASONS.items() for chain in chains.split()}


def reason_of(table: str, chain: str) -> str:
    """Return the reason for which a chain refuses packets. Numbers of an egress IP or a set in its name are ignored."""
    return OF_TABLE.get(table) or OF_CHAIN.get(chain.rstrip("0123456789").rstrip("_"), OTHER)


def of_refused(node: str, refused: Mapping[tuple[str, str], int] | None) -> Family:
    """Return the numbers of refused packets by reason; 0 for a reason without packets."""
    counted: Counter[str] = Counter()
    for (table, chain), packets in (refused or {}).items():
        counted[reason_of(table, chain)] += packets
    text = "Packets that rules of ours refused, by reason, since the rules were last replaced."
    reasons = (*REASONS, OTHER) if refused is not None else ()
    return counter("refused_packets_total", text, [
        Sample({"node": node, "reason": reason}, counted[reason]) for reason in reasons
    ])  # fmt: skip


def of_leases(view: NodeSnapshot, egress_node: bool) -> Iterator[Family]:
    """Yield the heartbeats of an egress node, and the shortest remaining times of its leases."""
    daemon = view.lease_daemon
    if daemon is None:
        return
    own = {"node": view.plan.node}
    text = "Heartbeats that this egress node has sent since its lease daemon started."
    yield counter("heartbeats_sent_total", text, [Sample(own, daemon.heartbeats.sent)] if egress_node else [])
    text = "Heartbeats of this egress node that were made a whole period late: it got no processor time."
    yield counter("heartbeats_late_total", text, [Sample(own, daemon.heartbeats.late)] if egress_node else [])
    margins = ((egress, view.state(egress.id)) for egress in view.plan.egress_ips)
    text = "What was left of the lease when it was renewed, the least of the last twenty renewals."
    yield gauge("lease_margin_seconds", text, [
        Sample({"gateway": egress.gateway, "ip": egress.address, **own}, state.margin_ms / 1000)
        for egress, state in margins if state is not None and state.margin_ms is not None
    ])  # fmt: skip


def of_api(node: str, errors: Mapping[str, int]) -> Family:
    """Return the failed requests to the Kubernetes API."""
    text = "Lists and watches of the Kubernetes API that failed since the agent started, by resource."
    return counter("api_errors_total", text, [
        Sample({"node": node, "resource": resource}, number) for resource, number in sorted(errors.items())
    ])  # fmt: skip
