"""A node as a voter: leases by :class:`Voter`, changes of the voter set by :class:`Electorate`, as one."""

from __future__ import annotations

from .lease import SILENT, VOTERS, Grant, Refusal, Release, Verdict, Voter
from .voters import CHAIR, Electorate, Memory
from .wire import Answer, Heartbeat


class Elector:
    def __init__(self, electorate: Electorate, memory: Memory | None, duration_ns: int, now: int) -> None:
        self._electorate = electorate
        self.silent_until = now + max(duration_ns, memory.duration_ns if memory else 0)
        if memory and memory.granted_until is not None:
            # It need not wait for grants that have ended.
            self.silent_until = min(self.silent_until, memory.granted_until)
        self.voter = Voter(self.silent_until)
        if memory:
            epoch, chair = memory.promised
            self.voter.grants[CHAIR] = Grant(chair, 0, epoch, until=0)

    @property
    def promised(self) -> tuple[int, str]:
        """The highest epoch granted to a chair, and to whom."""
        grant = self.voter.grants.get(CHAIR)
        return (grant.epoch, grant.holder) if grant else (0, "")

    def memory(self, duration_ns: int) -> Memory | None:
        """What to store; None while this node itself is still learning."""
        electorate = self._electorate
        if electorate.recovering:
            return None
        return Memory(
            electorate.current,
            electorate.accepted,
            self.promised,
            duration_ns,
            self.voter.granted_until,
            electorate.learned_at,
        )

    def vote(self, sender: str, incarnation: int, beat: Heartbeat, limit_ns: int, now: int) -> Answer:
        """``limit_ns``: this node's own lease time."""
        electorate = self._electorate
        refusal = self._refusal(beat, limit_ns)
        if refusal is not None:
            why, remaining_ns = refusal
            verdict = Verdict((), tuple(Refusal(c.id, why, remaining_ns=remaining_ns) for c in beat.claims))
        else:
            verdict = self.voter.vote(sender, incarnation, beat.claims, beat.duration_ns, limit_ns, now)
        if beat.proposal and CHAIR in verdict.granted:
            electorate.accept(beat.proposal, beat.voters.version, self.promised)
        return Answer(beat.seq, electorate.current, electorate.accepted, verdict.granted, verdict.refused)

    def _refusal(self, beat: Heartbeat, limit_ns: int) -> tuple[str, int] | None:
        """Why no claim of this request can be granted, and how long to wait."""
        current = self._electorate.current
        if self._electorate.recovering:
            return SILENT, limit_ns // 4
        another = beat.voters.version == current.version and beat.voters.members != current.members
        if another or not self._electorate.oldest <= beat.voters.version <= current.version:
            return VOTERS, 0
        return None

    def release(self, release: Release, now: int) -> None:
        self.voter.release(release, now)
