"""What an operator can see of one node, and what follows from it for packets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cni.attachments import Attachment
from cni.plan import Plan, PlanEgressIP, PolicySet

from ..container_engines.documents import Beside
from ..lease.ipc import EgressState, KeeperState
from ..manifests.model import Inventory, Problem
from ..policy.egress_ips import followed

GATEWAY, DIRECT, DROPPED, UNATTACHED = "gateway", "direct", "dropped", "unattached"
"""What happens to a packet; ``unattached``: this node knows no interface of the pod, so it steers nothing of it."""


@dataclass(frozen=True)
class NodeSnapshot:
    """``plan`` is what the kernel was brought to."""

    plan: Plan
    inventory: Inventory
    attachments: tuple[Attachment, ...] = ()
    keeper: KeeperState | None = None
    """None until it has spoken."""
    cluster_cidrs: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    """All of them, those of the inventory and the keeper too."""
    settled: bool = True
    """False while a lease keeper that has just started cannot know of every master yet."""

    beside: Mapping[tuple[str, str], Beside] = field(default_factory=dict)
    """Containers of this node that nothing steers though a policy selects them, by namespace and name."""

    def state(self, egress_id: str) -> EgressState | None:
        """What the lease keeper says of an egress IP."""
        states = self.keeper.egress if self.keeper else ()
        return next((state for state in states if state.id == egress_id), None)

    def egress(self, egress_id: str) -> PlanEgressIP | None:
        return next((egress for egress in self.plan.egress_ips if egress.id == egress_id), None)

    def set_of(self, attachment: Attachment) -> PolicySet | None:
        """The policy set that an interface's tag stands for."""
        return next((s for s in self.plan.policy_sets if s.group == attachment.group), None)


@dataclass(frozen=True)
class PathVerdict:
    """Where packets to one egress IP go from this node."""

    verdict: str
    """:data:`GATEWAY`, :data:`DIRECT` or :data:`DROPPED`."""
    via: str = ""
    """Name of the master; empty where it has none."""
    ip: str = ""
    """What the outside sees, see :func:`shown_address`."""
    path: str = ""
    """In words."""


def master(view: NodeSnapshot, egress: PlanEgressIP) -> tuple[str, int]:
    """Name of the master (empty: none) and its epoch.

    The keeper turns the tunnels itself, so it knows earlier than the plan.
    """
    state = view.state(egress.id)
    if state is None:
        return egress.master, egress.epoch
    return followed(egress, state.master, view.plan.nodes), state.epoch


def shown_address(view: NodeSnapshot, egress: PlanEgressIP) -> str:
    """The address that the outside sees now, as the master says it; empty where there is none.

    In basic mode only the master knows the primary address of its egress interface.
    """
    state = view.state(egress.id)
    return egress.address or (
        state.shown if state and followed(egress, state.master, view.plan.nodes) else ""
    )


def path_verdict(view: NodeSnapshot, egress: PlanEgressIP, family: int = 0) -> PathVerdict:
    """What happens on this node to packets of a ``family`` (0: its own) that a policy sends to ``egress``."""
    name, _ = master(view, egress)
    foreign = family not in (0, egress.family)
    if not name or foreign:
        why = f"the gateway has no IPv{family} address: " if foreign else ""
        if egress.direct:
            return PathVerdict(DIRECT, path=f"{why}as if there were no policy (whenNoGateway: Direct)")
        return PathVerdict(DROPPED, path=f"{why}answered unreachable (whenNoGateway: Drop)")
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
    """Why an egress IP has no master, as far as this node can tell."""
    if not egress.eligible:
        return "no node can serve it: see the problems in status"
    state = view.state(egress.id)
    if state is None:
        return "the lease keeper has not spoken of it yet"
    return state.reason or "no node holds its lease"


def rfc3339(seconds: float) -> str:
    """RFC 3339, UTC, whole seconds; empty for 0."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""


def _interface(view: NodeSnapshot, egress: PlanEgressIP) -> str:
    named = (gateway.interface for gateway in view.inventory.gateways if gateway.name == egress.gateway)
    return next(named, "") or "its egress interface"
