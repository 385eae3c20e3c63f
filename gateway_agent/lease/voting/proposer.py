"""The proposer: the egress node that may change the voter set."""

from __future__ import annotations

from collections.abc import Callable

from .protocol import Request
from .voter_set import PROPOSER_LEASE, Proposal, VoterSet, paxos_step

MAX_PENDING = 16
"""Largest number of requests whose answers are kept."""


class Proposer:
    """The proposals of one node while it holds the lease on :data:`PROPOSER_LEASE`."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._answers: dict[int, dict[str, Proposal | None]] = {}
        self.proposal: Proposal | None = None

    def count(
        self,
        voter: str,
        request: Request,
        accepted: Proposal | None,
        current: VoterSet,
        wanted: Callable[[], VoterSet | None],
    ) -> VoterSet | None:
        """Count a voter's grant to the proposer, with the set that the voter accepted.

        Return a set that is now decided.
        """
        ballot = (request.claims[PROPOSER_LEASE], self._node)
        outdated = self.proposal is not None and self.proposal.ballot > ballot
        if outdated or request.quorum.version != current.version:
            return None
        answers = self._answers.setdefault(request.seq, {})
        answers[voter] = accepted
        for seq in sorted(self._answers)[:-MAX_PENDING]:
            del self._answers[seq]
        decided, self.proposal = paxos_step(current, ballot, self.proposal, answers, wanted)
        return decided
