"""For each alert: series in which its fault begins, lasts and ends, as promtool takes them."""

from __future__ import annotations

from dataclasses import dataclass, field

NODE = {"node": "g1"}
IP = {"gateway": "partner", "ip": "172.16.0.50"}


@dataclass(frozen=True)
class Series:
    """A metric with its labels, and its values: one each minute."""

    name: str
    labels: dict[str, str]
    values: str

    def __str__(self) -> str:
        labels = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
        return f"egress_gateway_{self.name}{{{labels}}}"


@dataclass(frozen=True)
class Planted:
    """A fault that begins after :data:`BEGINS` minutes and ends after :data:`ENDS`."""

    series: tuple[Series, ...]
    labels: dict[str, str] = field(default_factory=dict)
    """Labels of the alert, other than its severity."""


BEGINS, ENDS, OVER = 10, 100, 160
"""Minutes."""


def from_to(well: float, wrong: float) -> str:
    """Return the values of a gauge."""
    return f"{well}x{BEGINS - 1} {wrong}x{ENDS - BEGINS - 1} {well}x{OVER - ENDS}"


def growing(per_minute: int) -> str:
    """Return the values of a counter that grows only during the fault."""
    end = per_minute * (ENDS - BEGINS)
    return f"0x{BEGINS - 1} 0+{per_minute}x{ENDS - BEGINS - 1} {end}x{OVER - ENDS}"


def fault(name: str, labels: dict[str, str] | None = None) -> Planted:
    """Return a fault that the verdict knows. ``labels``: of the alert; None: as the series has them."""
    own = {"node": "g1", "fault": name}
    return Planted((Series("faults", own, from_to(0, 1)),), own if labels is None else labels)


def of_node(name: str, well: float, wrong: float) -> Planted:
    return Planted((Series(name, NODE, from_to(well, wrong)),), NODE)


ALIVE = Series("member_alive", {"node": "g1", "member": "g2"}, f"1x{OVER}")
UNREADY = Series("member_ready", {"node": "g1", "member": "g2"}, from_to(1, 0))
PLANTED = {
    "EgressGatewayNoMaster": Planted((
        Series("master_known", {**IP, "node": "g1"}, from_to(1, 0)),
        Series("master_known", {**IP, "node": "w1"}, from_to(1, 0)),
    ), IP),
    "EgressGatewayMasterUnknown": Planted((
        Series("master_known", {**IP, "node": "g1"}, f"1x{OVER}"),
        Series("master_known", {**IP, "node": "w1"}, from_to(1, 0)),
    ), {**IP, "node": "w1"}),
    "EgressGatewayTwoMasters": Planted((
        Series("master", {**IP, "node": "g1"}, f"1x{OVER}"),
        Series("master", {**IP, "node": "g2"}, from_to(0, 1)),
    ), IP),
    "EgressGatewayIsolated": of_node("isolated", 0, 1),
    "EgressGatewayWithoutMajority": fault("no_majority"),
    "EgressGatewayAddressConflict": Planted((
        Series("conflict", {**NODE, "ip": IP["ip"], "mac": "02:00:00:00:00:66", "interface": "eth1"}, from_to(0, 1)),
    ), {**NODE, "ip": IP["ip"], "mac": "02:00:00:00:00:66", "interface": "eth1"}),
    "EgressGatewayMemberDown": Planted((
        Series("member_alive", {"node": "g1", "member": "g2"}, from_to(1, 0)),
        Series("member_alive", {"node": "w1", "member": "g2"}, from_to(1, 0)),
    ), {"member": "g2"}),
    "EgressGatewayMemberNotReady": Planted((
        ALIVE, UNREADY, Series("drained", {"node": "g2"}, f"0x{OVER}"),
    ), {"member": "g2"}),
    "EgressGatewayFlapping": Planted((
        Series("master_changes_total", {**IP, "node": "g1"}, growing(1)),
    ), IP),
    "EgressGatewayOrphanPolicy": fault("orphan_policy", {"fault": "orphan_policy"}),
    "EgressGatewayPolicySelectsNothing": Planted((
        Series("policy_pods", {"node": "g1", "policy": "p", "gateway": "partner"}, f"0x{OVER}"),
        Series("policy_pods", {"node": "w1", "policy": "p", "gateway": "partner"}, from_to(2, 0)),
    ), {"policy": "p", "gateway": "partner"}),
    "EgressGatewayInvalidObject": fault("invalid_object", {"fault": "invalid_object"}),
    "EgressGatewayApiUnreachable": fault("api"),
    "EgressGatewayPluginNotInChain": fault("plugin"),
    "EgressGatewayDaemonLate": fault("late"),
    "EgressGatewayKeyMismatch": fault("key"),
    "EgressGatewayAgentNotReady": of_node("agent_ready", 1, 0),
    "EgressGatewayStale": Planted((
        Series(
            "last_round_timestamp_seconds", NODE,
            f"0+60x{BEGINS - 1} {60 * BEGINS}x{ENDS - BEGINS - 1} {60 * ENDS}+60x{OVER - ENDS}",
        ),
    ), NODE),
    "EgressGatewayConnectionTableFull": Planted((
        Series("conntrack_entries", NODE, from_to(100, 900)),
        Series("conntrack_entries_limit", NODE, f"1000x{OVER}"),
    ), NODE),
    "EgressGatewayConnectionsRefused": Planted((Series("conntrack_refused_total", NODE, growing(600)),), NODE),
    "EgressGatewayNumbersShort": Planted((
        Series("mark_numbers", {**NODE, "of": "policy_sets"}, from_to(3, 220)),
        Series("mark_numbers_limit", {**NODE, "of": "policy_sets"}, f"255x{OVER}"),
    ), {**NODE, "of": "policy_sets"}),
    "EgressGatewayLeaseMarginLow": Planted((
        Series("lease_margin_seconds", {**IP, **NODE}, from_to(0.2, 0.01)),
    ), {**IP, **NODE}),
    "EgressGatewayHeartbeatsLate": Planted((
        Series("heartbeats_sent_total", NODE, f"0+1200x{OVER}"), Series("heartbeats_late_total", NODE, growing(60)),
    ), NODE),
    "EgressGatewayMessagesRejected": Planted((
        Series("messages_total", {**NODE, "result": "accepted"}, f"0+6000x{OVER}"),
        Series("messages_total", {**NODE, "result": "bad_mac"}, growing(600)),
    ), {**NODE, "result": "bad_mac"}),
    "EgressGatewayPacketsRefused": Planted((
        Series("refused_packets_total", {**NODE, "reason": "stale"}, f"0+6000x{OVER}"),
        Series("refused_packets_total", {**NODE, "reason": "no_master"}, growing(600)),
    ), {**NODE, "reason": "no_master"}),
    "EgressGatewayPodsBesidePlugin": Planted((
        Series("pods_beside_plugin_total", {**NODE, "packets": "held"}, f"0+1x{OVER}"),
        Series("pods_beside_plugin_total", {**NODE, "packets": "loose"}, growing(1)),
    ), {**NODE, "packets": "loose"}),
    "EgressGatewayKernelFailures": Planted((
        Series("kernel_failures_total", {**NODE, "ip": IP["ip"], "what": "announce"}, growing(1)),
    ), {**NODE, "what": "announce"}),
    "EgressGatewayTunnelDrops": Planted((
        Series("tunnel_dropped_packets_total", {**IP, **NODE, "direction": "sent"}, growing(600)),
    ), {**IP, **NODE}),
    "EgressGatewayApiErrors": Planted((
        Series("api_errors_total", {**NODE, "resource": "pods"}, growing(1)),
    ), {**NODE, "resource": "pods"}),
    "EgressGatewayConnectionLogIncomplete": Planted((
        Series("connection_log_lost_events_total", NODE, f"0x{OVER}"),
        Series("connection_log_lines_total", {**NODE, "result": "unwritten"}, growing(1)),
    ), NODE),
}  # fmt: skip
"""By the name of the alert."""

DRAINED = (ALIVE, UNREADY, Series("drained", {"node": "g2"}, from_to(0, 1)))
"""An egress node that is drained: not ready, and nothing is wrong."""
