"""Decide which egress IPs a master hands over: by an operator's request, for failback, or for an even spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ..egress_ips.egress_ip import EgressIPs
from ..ipc import EgressIPSpec
from ..voting.protocol import SECOND, Release
from ..voting.voter_set import PROPOSER_LEASE
from .candidates import ElectionInput
from .placement import rendezvous_hash

REQUEST_TIMEOUT_NS = 4 * SECOND
"""Time for which an operator's request waits until its target can serve: the target may be suspect for a moment."""
TARGET_NS = 1 * SECOND
"""Time for which the receiver of a handover ranks first."""
FAILBACK_NS = 10 * SECOND
"""Time for which a node must have been the preferred one before an egress IP fails back to it."""


class Transfer(NamedTuple):
    """The decision on one egress IP of this node: hand it over to ``target``, or keep it if ``reason`` is empty."""

    target: str = ""
    """Name of the next master; empty: no other node can serve."""
    reason: str = ""
    shared: bool = False
    """See :attr:`gateway_agent.lease.voting.protocol.Release.shared`."""


KEEP = Transfer()


class Loads:
    """The number of egress IPs of each node during one decision: counted once, and kept up to date by :meth:`move`.

    ``masters``: the healthy masters by egress id. ``fresh``: ids of egress IPs that may move for an even spread.
    """

    def __init__(self, masters: Mapping[str, str], fresh: Collection[str]) -> None:
        self._masters = dict(masters)
        self._fresh_ids = fresh
        self._all = Counter(node for i, node in masters.items() if i != PROPOSER_LEASE)
        self._fresh = Counter(masters[i] for i in fresh if i in masters)

    def __getitem__(self, node: str) -> int:
        return self._all[node]

    def givers(self) -> list[str]:
        """Return the masters of egress IPs that may move."""
        return [node for node, number in self._fresh.items() if number > 0]

    def keeps(self, node: str) -> bool:
        """Return True if the node is master of an egress IP that does not move."""
        return self._all[node] > self._fresh[node]

    def move(self, identity: str, node: str) -> None:
        """Count an egress IP of this node for another one."""
        for counter in (self._all, self._fresh) if identity in self._fresh_ids else (self._all,):
            counter[self._masters[identity]] -= 1
            counter[node] += 1
        self._masters[identity] = node


class Rebalance:
    """The handovers that one node decides on. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, me: str, egress_ips: EgressIPs) -> None:
        self._me = me
        self._egress_ips = egress_ips

    def move(self, identity: str, to: str, now: int) -> None:
        """Note an operator's request for the node ``to`` as master."""
        self._egress_ips.version += 1
        self._egress_ips.record(identity).move = to, now + REQUEST_TIMEOUT_NS

    def forget_old(self, now: int) -> None:
        """Drop the requests and targets whose time is over."""
        for record in self._egress_ips:
            if record.target is not None and now >= record.target[1]:
                record.target, record.shared = None, False

    def on_release(self, release: Release, now: int) -> None:
        """Note the target of a release, of this node or of another one."""
        record = self._egress_ips.admit(release.id)
        if release.target and record is not None:
            self._egress_ips.version += 1
            record.target, record.shared = (release.target, now + TARGET_NS), release.shared

    def targets(self, now: int) -> dict[str, str]:
        """Return the receivers of handovers, which rank first, by egress id."""
        return {
            record.id: record.target[0]
            for record in self._egress_ips
            if record.target is not None and now < record.target[1]
        }

    def shared(self, now: int) -> frozenset[str]:
        """Return the ids of :meth:`targets` that were handed over for an even spread."""
        return frozenset(
            record.id
            for record in self._egress_ips
            if record.shared and record.target is not None and now < record.target[1]
        )

    def is_open(self, spec: EgressIPSpec, election_input: ElectionInput) -> bool:
        """Return True if :meth:`target` may decide on a handover of this egress IP."""
        record = self._egress_ips.find(spec.id)
        moves = record is not None and record.move is not None
        return spec.leaving or spec.failback or spec.id in election_input.fresh or moves

    def note_preferred_node(self, spec: EgressIPSpec, ideal: Sequence[str], now: int) -> None:
        """Note since when the preferred node of an egress IP is the same.

        ``ideal``: the nodes that can serve it, best first, as if it had no master.
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
        loads: Loads,
        sharing: bool,
        patient: bool,
        now: int,
    ) -> Transfer:
        """Return the node to which this one hands over what it holds, and why.

        ``order``: the nodes that can serve it, best first. ``loads``: of all healthy masters, this node among
        them. ``sharing``: no handover is in progress and nothing is without a master, so load counts are reliable.
        ``patient``: keep a leaving address until another node is ready.
        """
        others = [node for node in order if node != self._me]
        record = self._egress_ips.find(spec.id)
        asked = record.move[0] if record is not None and record.move is not None else ""
        if spec.leaving and not spec.ready:
            return KEEP if patient and not others else Transfer(next(iter(others), ""), spec.reason)
        if asked in others:
            return Transfer(asked, f"handed over to {asked} as requested")
        preferred, since = (
            record.preferred if record is not None and record.preferred is not None else ("", now)
        )
        if preferred in others and now >= since + FAILBACK_NS:
            return Transfer(preferred, f"{preferred} is back (failback: Automatic)")
        if sharing and spec.id in election_input.fresh:
            return self._share(spec.id, others, election_input, loads)
        return KEEP

    def _share(
        self, identity: str, others: Sequence[str], election_input: ElectionInput, loads: Loads
    ) -> Transfer:
        """Return the node whose load is lower by two or more, and the reason.

        One node hands over at a time: of the masters of fresh egress IPs the one with the highest load.
        """
        heaviest = max(
            loads.givers(), key=lambda node: (loads[node], rendezvous_hash("giver", node)), default=""
        )
        if self._me != heaviest:
            return KEEP
        settled = [n for n in others if self._is_settled(n, identity, election_input, loads)]
        least = min(settled, key=lambda node: (loads[node], rendezvous_hash(identity, node)), default="")
        return (
            Transfer(least, f"{least} serves fewer", True)
            if least and loads[self._me] - loads[least] >= 2
            else KEEP
        )

    @staticmethod
    def _is_settled(node: str, identity: str, election_input: ElectionInput, loads: Loads) -> bool:
        """Return True if ``node`` was alive when ``identity`` was taken over: a node that returns gets nothing back.

        A node that was suspect for a moment and is still master of what it served was alive.
        """
        member = election_input.members.get(node)
        if member is None or identity in member.warming:
            return False
        taken_at = election_input.fresh[identity]
        return loads.keeps(node) or election_input.missed_at.get(node, taken_at) <= taken_at
