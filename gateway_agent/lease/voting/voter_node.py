"""A node as a voter: for leases by :class:`Voter`, and for the voter set by :class:`VoterSetState`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

from .protocol import MILLISECOND, NEVER, SILENT, VOTERS, Claim, Refusal, Release, Verdict
from .voter import Grant, Voter
from .voter_set import PROPOSER_LEASE, Memory, Proposal, VoterSet, VoterSetState

DEFERRAL_NS = 5 * MILLISECOND
"""A claim that can be granted within this time is deferred until then, without another request."""


class VoteRequest(NamedTuple):
    """The request for a lease that a heartbeat carries to a voter."""

    seq: int
    """Number of the request, repeated in the answer."""
    duration_ns: int
    """The lease time that the sender requests."""
    voters: VoterSet
    """The voter set that the sender knows."""
    claims: tuple[Claim, ...]
    proposal: Proposal | None


@dataclass(frozen=True)
class DeferredRequest:
    """A request that is voted on again at ``at``, as if it had been under way until then."""

    sender: str
    incarnation: int
    request: VoteRequest
    """The request, with these claims alone."""
    at: int

    def without(self, identities: Collection[str]) -> DeferredRequest:
        """Return the request without the claims to these ids."""
        claims = tuple(claim for claim in self.request.claims if claim.id not in identities)
        return replace(self, request=self.request._replace(claims=claims))


class VoterNode:
    """One node as a voter. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(
        self, voter_set_state: VoterSetState, memory: Memory | None, duration_ns: int, now: int
    ) -> None:
        self._voter_set_state = voter_set_state
        self.silent_until = now + max(duration_ns, memory.duration_ns if memory else 0)
        if memory:
            # A restarted voter need not wait for grants that have ended.
            self.silent_until = min(self.silent_until, memory.granted_until)
        self.voter = Voter(self.silent_until)
        if memory:
            epoch, proposer = memory.promised
            self.voter.grants[PROPOSER_LEASE] = Grant(proposer, 0, epoch, until=0)
        self._pending: list[DeferredRequest] = []

    @property
    def promised(self) -> tuple[int, str]:
        """Return the highest epoch granted to a proposer, and the proposer's name."""
        grant = self.voter.grants.get(PROPOSER_LEASE)
        return (grant.epoch, grant.holder) if grant else (0, "")

    def memory(self, duration_ns: int) -> Memory | None:
        """Return the memory to store; None while this node recovers."""
        voter_set_state = self._voter_set_state
        if voter_set_state.recovering:
            return None
        return Memory(
            voter_set_state.current,
            voter_set_state.accepted,
            self.promised,
            duration_ns,
            self.voter.granted_until,
            voter_set_state.learned_at,
        )

    def vote(self, sender: str, incarnation: int, request: VoteRequest, limit_ns: int, now: int) -> Verdict:
        """Vote on a request. ``limit_ns``: this node's own lease time."""
        voter_set_state = self._voter_set_state
        self._forget(sender, incarnation, [claim.id for claim in request.claims])
        refusal = self._refusal(request, limit_ns)
        if refusal is not None:
            why, remaining_ns = refusal
            verdict = Verdict(
                (), tuple(Refusal(c.id, why, remaining_ns=remaining_ns) for c in request.claims)
            )
        else:
            verdict = self.voter.vote(sender, incarnation, request.claims, request.duration_ns, limit_ns, now)
            self._keep(sender, incarnation, request, verdict, now)
        if request.proposal and PROPOSER_LEASE in verdict.granted:
            voter_set_state.accept(request.proposal, request.voters.version, self.promised)
        return verdict

    def _refusal(self, request: VoteRequest, limit_ns: int) -> tuple[str, int] | None:
        """Return why no claim of this request can be granted, and the nanoseconds to wait."""
        current = self._voter_set_state.current
        if self._voter_set_state.recovering:
            return SILENT, limit_ns // 4
        another = request.voters.version == current.version and request.voters.members != current.members
        if another or not self._voter_set_state.oldest <= request.voters.version <= current.version:
            return VOTERS, 0
        return None

    def release(self, release: Release, now: int) -> None:
        """End a grant, and forget a deferred request for it."""
        self.voter.release(release, now)
        self._forget(release.node, release.incarnation, [release.id])

    def forget(self, keep: Collection[str], now: int) -> None:
        """Drop the grants for other egress IPs that ended long ago. A promise to a proposer is never dropped."""
        self.voter.forget({PROPOSER_LEASE, *keep}, now)

    def due(self, now: int) -> list[DeferredRequest]:
        """Remove and return the deferred requests that are due."""
        due = [pending for pending in self._pending if now >= pending.at]
        self._pending = [pending for pending in self._pending if now < pending.at]
        return due

    def next_due(self) -> int:
        """Return the moment at which the next deferred request is due."""
        return min((pending.at for pending in self._pending), default=NEVER)

    def _keep(self, sender: str, incarnation: int, request: VoteRequest, verdict: Verdict, now: int) -> None:
        """Defer the claims that can be granted soon: a new request would cost another round trip."""
        waits = {r.id: r.remaining_ns for r in verdict.refused if 0 < r.remaining_ns <= DEFERRAL_NS}
        if waits:
            claims = tuple(claim for claim in request.claims if claim.id in waits)
            kept = request._replace(claims=claims)
            self._pending.append(DeferredRequest(sender, incarnation, kept, now + min(waits.values())))

    def _forget(self, sender: str, incarnation: int, identities: Collection[str]) -> None:
        """Drop the deferred requests of ``sender`` for these ids, and all of its earlier incarnations."""
        others = [pending for pending in self._pending if pending.sender != sender]
        own = [
            p.without(identities) for p in self._pending if (p.sender, p.incarnation) == (sender, incarnation)
        ]
        self._pending = [*others, *(pending for pending in own if pending.request.claims)]
