"""The candidates for each egress IP, as far as one node knows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from ..ipc import EgressIPSpec, KeeperConfig
from ..voting.protocol import SECOND
from ..voting.voter_set import PROPOSER_LEASE
from .masters import Member
from .placement import placement

WARM_UP_NS = 2 * SECOND
"""Time for which a node that has become ready ranks behind those that were ready before."""


@dataclass(frozen=True)
class ElectionInput:
    """The knowledge of a node as it decides which egress IPs to ask for."""

    me: str
    wishes: Mapping[str, EgressIPSpec]
    """Specs by egress id, the proposer's lease included."""
    members: Mapping[str, Member]
    """The other egress nodes that are heard."""
    masters: Mapping[str, str]
    """The healthy masters by egress id, this node not among them."""
    standing: bool
    """True if this node may ask for leases."""
    surviving: bool
    """True if this node may be master on the votes that are left."""
    warming: Collection[str] = ()
    """Ids for which this node has become ready only just now."""
    missed_at: Mapping[str, int] = field(default_factory=dict)
    """The moment at which each member was last found silent: what it had before then is not given back."""
    fresh: Mapping[str, int] = field(default_factory=dict)
    """Ids that were homeless a moment ago, and when each was taken over: see :class:`.masterless.Masterless`."""
    taken: Collection[str] = ()
    """Ids whose address another machine may have, for all that this node knows: it must not take them by itself."""
    heirs: Mapping[str, str] = field(default_factory=dict)
    """The node to which an egress IP was handed over by its last master, by egress id."""


def effective_specs(
    config: KeeperConfig, egress_nodes: tuple[str, ...], stopping: bool, occupied: Mapping[str, str]
) -> list[EgressIPSpec]:
    """Return what a node is to serve, the chair included. One that stops leaves all that it could still serve.

    ``occupied``: by id why an address cannot be taken; see :class:`..virtual_ips.conflict_detection.Vacancy`.
    """
    able, why = config.node in egress_nodes and not stopping, "stopping" if stopping else ""
    wishes = [
        replace(
            wish,
            ready=wish.ready and able and wish.id not in occupied,
            reason=why or occupied.get(wish.id) or wish.reason or "not ready",
            leaving=wish.leaving or (stopping and (wish.ready or wish.keeps)),
        )
        for wish in config.egress
    ]
    return [*wishes, EgressIPSpec(PROPOSER_LEASE, "", "", egress_nodes, able, why)]


def kept(spec: EgressIPSpec, master: bool) -> EgressIPSpec:
    """Return the spec, ready if this node is master and may remain it: its agent may not know that yet."""
    return replace(spec, ready=True, reason="") if spec.keeps and not spec.leaving and master else spec


def candidates(situation: ElectionInput) -> dict[str, tuple[str, ...]]:
    """For each egress id the nodes that can serve it, best first."""
    wishes = situation.wishes
    asked = [n for n, member in situation.members.items() if situation.surviving or not member.isolated]
    ready = {identity: _ready(situation, wish, asked) for identity, wish in wishes.items()}
    warming = _warming(situation)
    # The chair is no load.
    eligible = {identity: wish.eligible for identity, wish in wishes.items() if identity != PROPOSER_LEASE}
    chair = {PROPOSER_LEASE: wishes[PROPOSER_LEASE].eligible} if PROPOSER_LEASE in wishes else {}
    order = {
        **placement(eligible, ready, situation.masters, warming=warming, fresh=situation.fresh),
        **placement(chair, ready, situation.masters, warming=warming),
    }
    for identity, heir in situation.heirs.items():
        order[identity] = tuple(sorted(order.get(identity, ()), key=lambda node: node != heir))
    return order


def _ready(situation: ElectionInput, wish: EgressIPSpec, asked: Iterable[str]) -> list[str]:
    """Return the nodes that can serve it, in no order. ``asked``: the other nodes that can serve anything."""
    able = wish.ready and situation.standing and not (situation.surviving and wish.id == PROPOSER_LEASE)
    others = [name for name in asked if situation.members[name].ready_for(wish.id)]
    return [situation.me, *others] if able and wish.id not in situation.taken else others


def _warming(situation: ElectionInput) -> dict[str, list[str]]:
    """Return by egress id the nodes that have become ready for it only just now; most have none."""
    found: dict[str, list[str]] = {}
    of_all = {situation.me: situation.warming, **{n: m.warming for n, m in situation.members.items()}}
    for name, identities in of_all.items():
        for identity in identities:
            found.setdefault(identity, []).append(name)
    return found
