"""From the plan to what the lease keeper must know."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cni.plan import Plan, PlanEgressIP

from .keeping import EgressWish, KeeperConfig, Peer


@dataclass(frozen=True)
class KeeperSettings:
    """The part of the configuration that the keeper gets as it is."""

    port: int
    key_file: str
    heartbeat_ns: int
    duration_ns: int
    availability_first: bool


def keeper_config(
    plan: Plan,
    settings: KeeperSettings,
    unready: Mapping[str, str],
    devices: Collection[str],
    *,
    stopping: bool = False,
) -> KeeperConfig:
    """``unready``: for each egress IP this node is eligible for, why it is not ready, or an empty text.

    ``devices``: names of the tunnels that stand, so that the keeper can point them at a master.
    """
    egress_nodes = {name for egress in plan.egress_ips for name in egress.eligible}
    return KeeperConfig(
        node=plan.node,
        port=settings.port,
        key_file=settings.key_file,
        heartbeat_ns=settings.heartbeat_ns,
        duration_ns=settings.duration_ns,
        availability_first=settings.availability_first,
        peers=tuple(Peer(node.name, node.address, node.name in egress_nodes) for node in plan.nodes),
        egress=tuple(_wish(plan, egress, unready, devices) for egress in plan.egress_ips),
        stopping=stopping,
    )


def _wish(plan: Plan, egress: PlanEgressIP, unready: Mapping[str, str], devices: Collection[str]) -> EgressWish:
    eligible = plan.node in egress.eligible
    reason = unready.get(egress.id, "not looked at yet") if eligible else ""
    return EgressWish(
        id=egress.id,
        gateway=egress.gateway,
        address=egress.address,
        eligible=egress.eligible,
        ready=eligible and not reason,
        reason=reason,
        shown=(egress.address or egress.source) if eligible else "",
        device=egress.device if egress.device in devices else "",
    )
