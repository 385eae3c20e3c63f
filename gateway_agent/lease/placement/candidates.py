"""The candidates for each egress IP, as far as one node knows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec
from msgspec import field
from msgspec.structs import replace

from ..ipc import EgressIPSpec, KeeperConfig
from ..voting.members import Member
from ..voting.protocol import SECOND
from ..voting.voter_set import PROPOSER_LEASE
from .placement import placement

WARM_UP_NS = 2 * SECOND
"""Time for which a node that has become ready ranks behind the nodes that were ready before."""


class ElectionInput(msgspec.Struct, frozen=True):
    """The facts by which a node decides which egress IPs to request and which to hand over."""

    me: str
    specs: Mapping[str, EgressIPSpec]
    """Specs by egress id, the proposer's lease included."""
    members: Mapping[str, Member]
    """The other egress nodes that are live."""
    masters: Mapping[str, str]
    """The healthy masters by egress id, this node not among them."""
    may_request: bool
    """True if this node may ask for leases."""
    without_quorum: bool
    """True if this node may be master on the votes that are left."""
    warming: Collection[str] = ()
    """Ids for which this node has become ready only just now."""
    missed_at: Mapping[str, int] = field(default_factory=dict)
    """The moment at which each member was last suspected. A member gets no egress IP back that it served before then.
    """
    fresh: Mapping[str, int] = field(default_factory=dict)
    """Moments of takeover, by egress id, of egress IPs that may still move: :meth:`.masterless.Masterless.fresh`."""
    taken: Collection[str] = ()
    """Ids whose address another machine may have: this node must not take over such an egress IP without a majority."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """The node to which an egress IP was handed over by its last master, by egress id."""


def effective_specs(
    config: KeeperConfig, egress_nodes: tuple[str, ...], stopping: bool, occupied: Mapping[str, str]
) -> list[EgressIPSpec]:
    """Return the specs of a node, including the spec of the proposer's lease.

    A node that stops hands over every egress IP that it could serve. ``occupied``: the reason why an address cannot be
    taken over, by id; see :class:`..virtual_ips.conflict_detection.Vacancy`.
    """
    able, why = config.node in egress_nodes and not stopping, "stopping" if stopping else ""
    specs = [
        replace(
            spec,
            ready=spec.ready and able and spec.id not in occupied,
            reason=why or occupied.get(spec.id) or spec.reason or "not ready",
            leaving=spec.leaving or (stopping and (spec.ready or spec.keeps)),
        )
        for spec in config.egress
    ]
    return [*specs, EgressIPSpec(PROPOSER_LEASE, "", "", egress_nodes, able, why)]


def kept(spec: EgressIPSpec, master: bool) -> EgressIPSpec:
    """Return the spec, marked ready if this node is master and may stay so: the agent may not know yet that it is."""
    return replace(spec, ready=True, reason="") if spec.keeps and not spec.leaving and master else spec


def candidates(election_input: ElectionInput) -> dict[str, tuple[str, ...]]:
    """Return the nodes that can serve each egress IP, best first, by egress id."""
    specs = election_input.specs
    asked = [
        n
        for n, member in election_input.members.items()
        if election_input.without_quorum or not member.isolated
    ]
    ready = {identity: _ready(election_input, spec, asked) for identity, spec in specs.items()}
    warming = _warming(election_input)
    # The proposer's lease does not count as load.
    eligible = {identity: spec.eligible for identity, spec in specs.items() if identity != PROPOSER_LEASE}
    proposer = {PROPOSER_LEASE: specs[PROPOSER_LEASE].eligible} if PROPOSER_LEASE in specs else {}
    order = {
        **placement(eligible, ready, election_input.masters, warming=warming, fresh=election_input.fresh),
        **placement(proposer, ready, election_input.masters, warming=warming),
    }
    for identity, target in election_input.targets.items():
        order[identity] = tuple(sorted(order.get(identity, ()), key=lambda node: node != target))
    return order


def _ready(election_input: ElectionInput, spec: EgressIPSpec, asked: Iterable[str]) -> list[str]:
    """Return the nodes that can serve an egress IP, unordered.

    ``asked``: the other nodes that can serve any egress IP.
    """
    able = (
        spec.ready
        and election_input.may_request
        and not (election_input.without_quorum and spec.id == PROPOSER_LEASE)
    )
    others = [name for name in asked if election_input.members[name].ready_for(spec.id)]
    return [election_input.me, *others] if able and spec.id not in election_input.taken else others


def _warming(election_input: ElectionInput) -> dict[str, list[str]]:
    """Return the nodes that became ready within :data:`WARM_UP_NS`, by egress id; most ids have none."""
    found: dict[str, list[str]] = {}
    of_all = {
        election_input.me: election_input.warming,
        **{n: m.warming for n, m in election_input.members.items()},
    }
    for name, identities in of_all.items():
        for identity in identities:
            found.setdefault(identity, []).append(name)
    return found
