"""Hold the state of one node for operators, and derive the path of packets from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from cni.calls.attachments import Attachment
from cni.plan import Plan, PlanEgressIP, PolicySet

from ..container_engines.documents import Beside
from ..lease.ipc import Change, EgressState, KeeperState
from ..manifests.model import Inventory, Problem
from ..policy.egress_ips import followed
from ..policy.egress_node.exit_paths import Found
from ..policy.pods.unattached_pods import BesideLog

GATEWAY, DIRECT, DROPPED, UNATTACHED = "gateway", "direct", "dropped", "unattached"
"""Verdicts on a packet. ``unattached``: this node knows no interface of the pod, so it cannot steer the pod."""


@dataclass(frozen=True)
class NodeSnapshot:
    """State of one node. ``plan``: the plan that is in the kernel."""

    plan: Plan
    inventory: Inventory
    attachments: tuple[Attachment, ...] = ()
    lease_daemon: KeeperState | None = None
    """State of the lease daemon; None until its first report."""
    cluster_cidrs: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    """All problems, including those of the inventory and of the lease daemon."""
    settled: bool = True
    """False while a lease daemon that has just started cannot know every master yet."""

    unready: str = ""
    """Reason why the agent cannot serve pods now; empty if it can."""
    drained: bool = False
    """True if an operator has drained this node."""

    beside: Mapping[tuple[str, str], Beside] = field(default_factory=dict)
    """Containers of this node that a policy selects but no tag steers, by (namespace, name)."""

    started_beside: BesideLog = field(default_factory=BesideLog)
    """Pods that started without a call of the plugin since the agent started."""

    exits: Mapping[str, Found] = field(default_factory=dict)
    """Answers of the kernel about the destination of :func:`gateway_agent.show.explain.explain`, by egress id."""

    def state(self, egress_id: str) -> EgressState | None:
        """Return the lease daemon's state of an egress IP; None if it has none."""
        return self._states.get(egress_id)

    @cached_property
    def _states(self) -> Mapping[str, EgressState]:
        """The lease daemon's states by egress id: with a thousand egress IPs each question would look at all."""
        return {state.id: state for state in self.lease_daemon.egress} if self.lease_daemon else {}

    def last_change(self, egress_id: str) -> Change | None:
        """Return the last change of the master that the lease daemon knows of; None if it knows none."""
        return self._last_changes.get(egress_id)

    @cached_property
    def _last_changes(self) -> Mapping[str, Change]:
        """The last change of each egress IP: changes come in their order."""
        return {change.id: change for change in self.lease_daemon.changes} if self.lease_daemon else {}

    def egress(self, egress_id: str) -> PlanEgressIP | None:
        """Return the egress IP with this id; None if the plan lacks it."""
        return self._egress_ips.get(egress_id)

    @cached_property
    def _egress_ips(self) -> Mapping[str, PlanEgressIP]:
        """The egress IPs of the plan by egress id."""
        return {egress.id: egress for egress in self.plan.egress_ips}

    def set_of(self, attachment: Attachment) -> PolicySet | None:
        """Return the policy set of an interface's tag; None if there is none."""
        return next((s for s in self.plan.policy_sets if s.group == attachment.group), None)


@dataclass(frozen=True)
class PathVerdict:
    """The path of packets from this node to one egress IP."""

    verdict: str
    """:data:`GATEWAY`, :data:`DIRECT` or :data:`DROPPED`."""
    via: str = ""
    """Name of the master; empty if there is none."""
    ip: str = ""
    """Source address outside, see :func:`shown_address`."""
    path: str = ""
    """Description of the path."""


def master(view: NodeSnapshot, egress: PlanEgressIP) -> tuple[str, int]:
    """Return the name of the master (empty: none) and its epoch.

    The lease daemon's state is preferred to the plan: the daemon points the tunnels itself, so it knows earlier.
    """
    state = view.state(egress.id)
    if state is None:
        return egress.master, egress.epoch
    return followed(egress, state.master, view.plan.node_names), state.epoch


def shown_address(view: NodeSnapshot, egress: PlanEgressIP) -> str:
    """Return the present source address outside; empty if there is none.

    In basic mode it comes from the master, which alone knows the primary address of its egress interface.
    """
    state = view.state(egress.id)
    return egress.address or (
        state.shown if state and followed(egress, state.master, view.plan.node_names) else ""
    )


def path_verdict(view: NodeSnapshot, egress: PlanEgressIP, family: int = 0) -> PathVerdict:
    """Return the path of packets that a policy steers to ``egress``. ``family``: 4, 6, or 0 for that of ``egress``."""
    name, _ = master(view, egress)
    foreign = family not in (0, egress.family)
    if not name or foreign:
        why = f"the gateway has no IPv{family} address: " if foreign else ""
        if egress.direct:
            return PathVerdict(DIRECT, path=f"{why}as if there were no policy (whenNoGateway: Direct)")
        return PathVerdict(DROPPED, path=f"{why}answered unreachable (whenNoGateway: Drop)")
    if not egress.slot and len(view.plan.outgoing) >= view.plan.layout.numbers:
        return PathVerdict(DROPPED, name, path="no number of mark.mask is left for it on this node")
    ip = shown_address(view, egress)
    if name == view.plan.node:
        path = f"no tunnel, this node is the master: SNAT to {ip} on {egress.interface}"
        return PathVerdict(GATEWAY, name, ip, path)
    node = next((node for node in view.plan.nodes if node.name == name), None)
    if node is None or view.plan.me is None:
        return PathVerdict(DROPPED, name, path="no tunnel without this node's address in the inventory")
    shown = ip or f"its address on {_interface(view, egress)}"
    path = f"by tunnel {egress.device} to {name} ({node.address}), SNAT there to {shown}"
    return PathVerdict(GATEWAY, name, ip, path)


def no_master_reason(view: NodeSnapshot, egress: PlanEgressIP) -> str:
    """Return the reason why an egress IP has no master, as far as this node knows."""
    if not egress.eligible:
        return "no node can serve it: see the problems in status"
    state = view.state(egress.id)
    if state is None:
        return "the lease daemon has not reported it yet"
    return state.reason or "no node holds its lease"


def rfc3339(seconds: float) -> str:
    """Return Unix time as RFC 3339 text in UTC and whole seconds; empty for 0."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""


def _interface(view: NodeSnapshot, egress: PlanEgressIP) -> str:
    named = (gateway.interface for gateway in view.inventory.gateways if gateway.name == egress.gateway)
    return next(named, "") or "its egress interface"
