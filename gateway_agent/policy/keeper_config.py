"""Compute the configuration of the lease daemon and the fence from the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cni.datapath.tunnel_port_guard import process_tunnels
from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP

from ..gateway_rules.fence import fence_nft
from ..lease.ipc import EgressIPSpec, Facts, HandoverRequest, KeeperConfig, Peer
from ..lease.voting.recorded_voter_set import has_majority_in
from ..lease.voting.voter_set import VoterSet
from .egress_node.readiness import InterfaceFacts
from .kept_results import Kept

MAX_PREFIX_CHARS = 200
"""Characters of ``clusterCIDRs`` in a message between nodes; a longer list is sent as its length and a hash."""


@dataclass(frozen=True)
class KeeperSettings:
    """Values of ``agent.yaml`` that are passed to the lease daemon unchanged."""

    port: int
    key_file: str
    heartbeat_ns: int
    duration_ns: int
    availability_first: bool
    accept_key_files: tuple[str, ...] = ()
    cluster_cidrs: tuple[str, ...] = ()


def keeper_config(
    plan: Plan,
    settings: KeeperSettings,
    unready: Mapping[str, str],
    devices: Collection[str],
    *,
    leaving: Collection[str] = (),
    keeping: Collection[str] = (),
    failback: Collection[str] = (),
    carried: Collection[str] | None = None,
    moves: Iterable[HandoverRequest] = (),
    published: VoterSet | None = None,
    stopping: bool = False,
) -> KeeperConfig:
    """Return the lease daemon's configuration. Egress IPs are named by their ids.

    ``unready``: reason why this node is not ready, for each egress IP that it is eligible for; empty: ready.
    ``devices``: existing tunnel devices, which the daemon can point at a master. ``leaving``: egress IPs that this node
    must hand over while it still forwards. ``keeping``: egress IPs that it may retain but not acquire. ``failback``:
    egress IPs that return to their preferred node. ``carried``: egress IPs that pods of this node use; None: not known.
    ``moves``: handovers that operators requested. ``published``: the voter set that is recorded in the store.
    """
    return KeeperConfig(
        node=plan.node,
        port=settings.port,
        key_file=settings.key_file,
        heartbeat_ns=settings.heartbeat_ns,
        duration_ns=settings.duration_ns,
        availability_first=settings.availability_first,
        peers=_peers(plan),
        egress=tuple(
            _egress_ip_spec(plan, egress, unready, devices, leaving, keeping, failback, carried)
            for egress in plan.egress_ips
        ),
        stopping=stopping,
        moves=tuple(moves),
        accept_key_files=settings.accept_key_files,
        facts=_facts(plan, settings),
        published=has_majority_in(published, [node.name for node in plan.nodes]),
    )


@Kept
def _peers(plan: Plan) -> tuple[Peer, ...]:
    egress_nodes = {name for egress in plan.egress_ips for name in egress.eligible}
    return tuple(Peer(node.name, node.address, node.name in egress_nodes) for node in plan.nodes)


def _facts(plan: Plan, settings: KeeperSettings) -> Facts:
    cidrs = _in_short(settings.cluster_cidrs)
    # conntrackd gives the marks of synced connections to the other egress nodes.
    syncs = any(egress.sync and plan.node in egress.eligible for egress in plan.egress_ips)
    mask = plan.mask if syncs else 0
    return Facts(plan.port, settings.duration_ns, settings.availability_first, cidrs, mark_mask=mask)


def _in_short(cidrs: Collection[str]) -> str:
    """Return prefixes as one text, sorted; more than MAX_PREFIX_CHARS as their number and a hash."""
    text = ", ".join(sorted(set(cidrs)))
    if len(text) <= MAX_PREFIX_CHARS:
        return text
    return f"{len(set(cidrs))} prefixes, {hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def fenced_addresses(plan: Plan) -> tuple[str, ...]:
    """Return the virtual addresses that this node may use as source only while it has their lease, sorted."""
    mine = (egress for egress in plan.egress_ips if egress.address and egress.interface)
    return tuple(sorted(egress.address for egress in mine))


def fence(plan: Plan, devices: Sequence[str], able: bool = True) -> str:
    """Return the fence for these devices as an nft transaction.

    ``able``: the kernel has the egress hook (Linux 5.16). Without the hook a node can serve no virtual address, and
    everything else works.
    """
    tunnels = able and plan.me is not None and bool(plan.egress_ips)
    return fence_nft(
        fenced_addresses(plan), devices, plan.port if tunnels else 0, tuple(process_tunnels(plan))
    )


def fence_devices(
    plan: Plan, facts: Mapping[str, InterfaceFacts], pod_interfaces: Collection[str]
) -> tuple[str, ...]:
    """Return the devices that need the fence, sorted: all by which packets can leave the node.

    These are the interfaces with an address and those of virtual addresses, except the interfaces of this node's pods.
    """
    chosen = {egress.interface for egress in plan.egress_ips if egress.address}
    own = {"lo", *pod_interfaces}
    names = (name for name, known in facts.items() if known.addresses or name in chosen)
    return tuple(sorted(n for n in names if n not in own and not n.startswith(ids.DEVICE_PREFIX)))


def _egress_ip_spec(
    plan: Plan,
    egress: PlanEgressIP,
    unready: Mapping[str, str],
    devices: Collection[str],
    leaving: Collection[str],
    keeping: Collection[str],
    failback: Collection[str],
    carried: Collection[str] | None,
) -> EgressIPSpec:
    eligible = plan.node in egress.eligible
    retired = "its gateway does not select this node" if plan.serves(egress) else ""
    reason = unready.get(egress.id, "not looked at yet") if eligible else retired
    return EgressIPSpec(
        id=egress.id,
        gateway=egress.gateway,
        address=egress.address,
        eligible=egress.eligible,
        ready=eligible and not reason,
        reason=reason,
        shown=(egress.address or egress.source) if eligible or plan.serves(egress) else "",
        interface=egress.interface if egress.address else "",
        leaving=egress.id in leaving or not eligible,
        keeps=egress.id in keeping,
        failback=egress.id in failback,
        carries=carried is None or egress.id in carried,
        device=egress.device if egress.device in devices else "",
        vni=egress.vni,
        sync=egress.sync,
    )
