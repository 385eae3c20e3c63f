"""Decide, after a change, which leases a node requests and which it hands over; ask the LAN first if necessary."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from .egress_ips.egress_ip import Event
from .ipc import EgressIPSpec
from .node_state import NodeState
from .placement.candidates import ElectionInput, candidates, effective_specs
from .placement.masterless import Masterless
from .placement.rebalance import Loads
from .virtual_ips.conflict_detection import ConflictDetection, Vacancy
from .voting.protocol import NEVER, SECOND
from .voting.voter_set import PROPOSER_LEASE

STOP_TIMEOUT_NS = 1 * SECOND
"""Longest time that a stopping node waits for another one to become able to serve."""


class Election:
    """The decisions of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, node: NodeState, conflicts: ConflictDetection) -> None:
        self._node = node
        self._conflicts = conflicts
        self._vacancy = Vacancy()
        self._at_rest: object = None
        """The facts with which nothing was open to decide; None: something was."""
        self._masterless = Masterless(node.ownership.egress_ips)

    @property
    def occupied(self) -> Mapping[str, str]:
        """Return, by egress id, why an address cannot be taken over: another machine has it."""
        return self._vacancy.occupied

    @property
    def waits(self) -> bool:
        """Return True if the answer to a probe on the LAN is still awaited for an address."""
        return bool(self._vacancy.pending)

    def configure(self, now: int) -> None:
        """Apply the configuration to the egress IPs whose addresses are free."""
        node = self._node
        specs = effective_specs(
            node.config, node.egress_nodes, node.lifecycle.stopping, self._vacancy.occupied
        )
        node.ownership.configure(specs, node.timers, node.lifecycle.stopping, now)

    def decide(self, now: int) -> None:
        """Decide which egress IPs this node requests and which it hands over."""
        node = self._node
        if self._at_rest is not None and self._at_rest == self._facts(now):
            return
        self._at_rest = None
        without_quorum, pending = node.quorum_view.may_serve_without_quorum(now), self._ask_first(now)
        barred = not node.quorum_view.quorum(now).sets or (
            node.quorum_view.isolated(now) and not without_quorum
        )
        mastership = node.ownership
        node.failure_detector.update(mastership.timers.suspect_ns, now)
        alive = node.failure_detector.alive(mastership.timers.suspect_ns, now)
        if without_quorum:
            # No majority prevents two nodes from serving one address here, so the LAN is asked.
            not_owned = [s for s in mastership.specs.values() if not mastership.holds(s.id, now)]
            self._conflicts.probe_each(node.me, not_owned, now)
            taken = self._conflicts.unavailable(node.me, not_owned, now)
        else:
            taken = pending
        election_input = ElectionInput(
            me=node.me,
            specs=mastership.specs,
            members=alive,
            masters=self._healthy_masters(alive),
            may_request=node.is_egress and not barred,
            without_quorum=without_quorum,
            warming=mastership.ability.warming(now),
            taken=taken,
            missed_at=node.failure_detector.last_suspected_at,
            targets=mastership.rebalance.targets(now),
        )
        if not self._apply(election_input, now) and not pending and not election_input.targets:
            self._at_rest = self._facts(now)

    def _facts(self, now: int) -> object:
        """Return all by which a decision may differ from the last one if that found nothing open.

        What depends on time alone is open as long as it does.
        """
        node = self._node
        detector, suspect_ns = node.failure_detector, node.ownership.timers.suspect_ns
        detector.update(suspect_ns, now)
        return (
            node.ownership.egress_ips.version,
            frozenset(detector.alive(suspect_ns, now)),
            node.is_egress,
            node.quorum_view.isolated(now),
            node.quorum_view.may_serve_without_quorum(now),
            bool(node.quorum_view.quorum(now).sets),
        )

    def _healthy_masters(self, alive: Collection[str]) -> dict[str, str]:
        """Return the masters by egress id, without this node. ``alive``: the nodes that are not suspect."""
        ownership = self._node.ownership
        followed = {identity: ownership.master_table.of(identity) for identity in ownership.specs}
        return {
            i: entry.master for i, entry in followed.items() if entry.master in alive and entry.gone is None
        }

    def _ask_first(self, now: int) -> list[str]:
        """Probe the LAN for addresses that no node is known to have had. Return the ids that wait for an answer."""
        node = self._node
        known = node.ownership.master_table
        wanted = [w for w in node.config.egress if w.ready and w.address and not known.highest(w.id)]
        self._conflicts.probe_first_takeovers(wanted, now)
        before, self._vacancy = self._vacancy, self._conflicts.vacancy(wanted, now)
        if self._vacancy.occupied != before.occupied:
            self.configure(now)
            node.due.heartbeat = True
            node.due.revision += 1
        return self._vacancy.pending

    def _apply(self, election_input: ElectionInput, now: int) -> bool:
        """Request the egress IPs without a master if it is this node's turn; hand over those that it is not to keep.

        Return True if anything is open, or will be without another input.
        """
        ownership, me = self._node.ownership, self._node.me
        masters = {**election_input.masters, **dict.fromkeys(ownership.owner.held(now), me)}
        known = [identity for identity in ownership.specs if identity != PROPOSER_LEASE]
        self._masterless.update(known, masters, election_input.targets, ownership.rebalance.shared(now), now)
        election_input = replace(election_input, fresh=self._masterless.fresh(now))
        if not self._undecided(election_input, now):
            return bool(election_input.fresh) or election_input.without_quorum
        order = candidates(replace(election_input, masters=masters))
        returning = any(spec.failback for spec in ownership.specs.values())
        ideal = candidates(replace(election_input, masters={}, targets={}, fresh={})) if returning else {}
        masterless, loads = self._masterless.any(), Loads(masters, election_input.fresh)
        for identity, spec in ownership.specs.items():
            if ownership.holds(identity, now):
                ownership.rebalance.note_preferred_node(spec, ideal.get(identity, ()), now)
                sharing = not masterless and not ownership.egress_ips.handing_over()
                patient = self._patient(spec, election_input, now)
                transfer = ownership.rebalance.target(
                    spec, order[identity], election_input, loads, sharing, patient, now
                )
                ownership.rebalance.end_move(spec, order[identity], now)
                if transfer.reason:
                    ownership.hand_over(identity, transfer, now)
                    # The next decision must count this one: with no worker to wait for, the handover is over by then.
                    loads.move(identity, transfer.target)
            else:
                self._contend(identity, order[identity], election_input, now)
        return True

    def _contend(self, identity: str, order: Sequence[str], election_input: ElectionInput, now: int) -> None:
        """Request an egress IP that this node does not hold, or withdraw.

        ``order``: nodes that can serve it, best first.
        """
        ownership, me = self._node.ownership, self._node.me
        if identity in election_input.masters:
            ownership.release(identity, Event.FOLLOW, f"{election_input.masters[identity]} is master", now)
            ownership.egress_ips.record(identity).wait = None
        elif me not in order:
            ownership.release(identity, Event.UNABLE, "not ready", now)
        elif ownership.acquisition.timed_out(identity, ownership.timers, now):
            ownership.release(identity, Event.TIME_OUT, "no majority of the voters answered", now)
            ownership.acquisition.pause(identity, ownership.timers, now)
        else:
            rank, epoch = order.index(me), ownership.master_table.highest(identity) + 1
            alone = len(order) == 1
            self._node.due.heartbeat |= ownership.acquisition.try_acquire(
                identity, rank, alone, epoch, ownership.timers, now
            )

    def _patient(self, spec: EgressIPSpec, election_input: ElectionInput, now: int) -> bool:
        """Return True if a draining egress IP stays here until another node can serve it: an earlier end helps none."""
        ownership, me = self._node.ownership, self._node.me
        if ownership.stopping_since == NEVER:
            return me in spec.eligible
        return now < ownership.stopping_since + STOP_TIMEOUT_NS and any(
            node in election_input.members for node in spec.eligible
        )

    def _undecided(self, election_input: ElectionInput, now: int) -> bool:
        """Return True if a decision is needed.

        With many egress IPs it takes milliseconds, so it is not made for nothing.
        """
        ownership = self._node.ownership
        return any(
            ownership.rebalance.is_open(spec, election_input)
            if ownership.holds(identity, now)
            else self._is_open(identity, election_input)
            for identity, spec in ownership.specs.items()
        )

    def _is_open(self, identity: str, election_input: ElectionInput) -> bool:
        ownership = self._node.ownership
        record = ownership.egress_ips.find(identity)
        contends = record is not None and (record.lease is not None or record.wait is not None)
        return contends or identity not in election_input.masters
