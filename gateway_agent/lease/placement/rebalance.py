"""Handovers of a node to a better one: by an operator's request, for failback, or to serve equally many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..ipc import EgressIPSpec
from ..mastership.egress_ip import EgressIPs
from ..voting.protocol import SECOND, Release
from ..voting.voter_set import PROPOSER_LEASE
from .candidates import ElectionInput
from .placement import rendezvous_hash

REQUEST_TIMEOUT_NS = 4 * SECOND
"""Time for which an operator's request waits for its node to become able: it may have been unheard for a moment."""
TARGET_NS = 1 * SECOND
"""Time for which the receiver of a handover is given precedence."""
FAILBACK_NS = 10 * SECOND
"""Time for which a node must have been the preferred one before it is given anything back."""


class Gift(NamedTuple):
    """The fate of an egress IP that this node holds; without a ``reason`` the node keeps it."""

    target: str = ""
    """The node that is to have it; empty: none can."""
    reason: str = ""
    shared: bool = False
    """See :attr:`gateway_agent.lease.voting.protocol.Release.shared`."""


KEEP = Gift()


class Rebalance:
    """One node's. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, me: str, egress_ips: EgressIPs) -> None:
        self._me = me
        self._egress_ips = egress_ips

    def move(self, identity: str, to: str, now: int) -> None:
        """Take in that an operator wants ``to`` as master."""
        self._egress_ips.record(identity).move = to, now + REQUEST_TIMEOUT_NS

    def forget_old(self, now: int) -> None:
        """Drop the handovers that are over."""
        for record in self._egress_ips:
            if record.target is not None and now >= record.target[1]:
                record.target, record.shared = None, False

    def on_release(self, release: Release, now: int) -> None:
        """Take in that a node, perhaps this one, has released something."""
        record = self._egress_ips.admit(release.id)
        if release.target and record is not None:
            record.target, record.shared = (release.target, now + TARGET_NS), release.shared

    def targets(self, now: int) -> dict[str, str]:
        """Return by egress id the nodes that are to ask first for what was handed over."""
        return {
            record.id: record.target[0]
            for record in self._egress_ips
            if record.target is not None and now < record.target[1]
        }

    def shared(self, now: int) -> frozenset[str]:
        """Return what of :meth:`targets` was handed over in order to serve equally many."""
        return frozenset(
            record.id
            for record in self._egress_ips
            if record.shared and record.target is not None and now < record.target[1]
        )

    def is_open(self, spec: EgressIPSpec, election_input: ElectionInput) -> bool:
        """Return True if what this node holds may be for another one."""
        record = self._egress_ips.find(spec.id)
        moves = record is not None and record.move is not None
        return spec.leaving or spec.failback or spec.id in election_input.fresh or moves

    def note_preferred_node(self, spec: EgressIPSpec, ideal: Sequence[str], now: int) -> None:
        """Take in how long the preferred node has been the same.

        ``ideal``: the nodes that could serve it, best first, if none were master.
        """
        record = self._egress_ips.record(spec.id)
        preferred = ideal[0] if spec.failback and ideal and ideal[0] != self._me else ""
        if record.preferred is None or record.preferred[0] != preferred:
            record.preferred = preferred, now

    def end_move(self, spec: EgressIPSpec, order: Sequence[str], now: int) -> None:
        """Drop an operator's request that :meth:`target` has followed, or that is too old."""
        record = self._egress_ips.find(spec.id)
        if record is not None and record.move is not None:
            asked, until = record.move
            if now >= until or (asked in order and asked != self._me):
                record.move = None

    def target(
        self,
        spec: EgressIPSpec,
        order: Sequence[str],
        election_input: ElectionInput,
        masters: Mapping[str, str],
        sharing: bool,
        patient: bool,
        now: int,
    ) -> Gift:
        """Return the node to which this one hands over what it holds, and why.

        ``order``: the nodes that can serve it, best first. ``masters``: all healthy masters by egress id, this node
        among them. ``sharing``: no handover is in progress and nothing is without a master, so load counts are
        reliable. ``patient``: keep a leaving address until another node is ready.
        """
        others = [node for node in order if node != self._me]
        record = self._egress_ips.find(spec.id)
        asked = record.move[0] if record is not None and record.move is not None else ""
        if spec.leaving and not spec.ready:
            return KEEP if patient and not others else Gift(next(iter(others), ""), spec.reason)
        if asked in others:
            return Gift(asked, f"handed over to {asked} as asked")
        preferred, since = (
            record.preferred if record is not None and record.preferred is not None else ("", now)
        )
        if preferred in others and now >= since + FAILBACK_NS:
            return Gift(preferred, f"{preferred} is back (failback: Automatic)")
        if sharing and spec.id in election_input.fresh:
            return self._share(spec.id, others, election_input, masters)
        return KEEP

    def _share(
        self, identity: str, others: Sequence[str], election_input: ElectionInput, masters: Mapping[str, str]
    ) -> Gift:
        """Return another node that serves fewer, by two at least, and the reason.

        One node gives at a time: of those that have something fresh to give, the one that serves the most.
        """
        load = Counter(node for i, node in masters.items() if i != PROPOSER_LEASE)
        givers = {masters[i] for i in election_input.fresh if i in masters}
        if self._me != max(givers, key=lambda node: (load[node], rendezvous_hash("giver", node)), default=""):
            return KEEP
        settled = [n for n in others if self._is_settled(n, identity, election_input, masters)]
        least = min(settled, key=lambda node: (load[node], rendezvous_hash(identity, node)), default="")
        return (
            Gift(least, f"{least} serves fewer", True)
            if least and load[self._me] - load[least] >= 2
            else KEEP
        )

    @staticmethod
    def _is_settled(
        node: str, identity: str, election_input: ElectionInput, masters: Mapping[str, str]
    ) -> bool:
        """Return whether ``node`` was there when ``identity`` was taken over: one that returns is given nothing back.

        A node that was not heard for a moment and has kept what it had was there.
        """
        member = election_input.members.get(node)
        if member is None or identity in member.warming:
            return False
        kept = any(
            master == node and i != PROPOSER_LEASE and i not in election_input.fresh
            for i, master in masters.items()
        )
        taken_at = election_input.fresh[identity]
        return kept or election_input.missed_at.get(node, taken_at) <= taken_at
