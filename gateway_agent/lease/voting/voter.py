"""The grants of one voter: a lease goes to one node at a time (:mod:`.protocol`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec
from msgspec.structs import replace

from ..limits import FORGET_NS, MAX_IDS
from .protocol import DURATION, EPOCH, HELD, SECOND, SILENT, Claim, Refusal, Release, Verdict


class Grant(msgspec.Struct):
    """A voter's record of an egress IP. ``epoch`` is the highest epoch that the voter ever granted."""

    holder: str
    incarnation: int
    epoch: int
    until: int


class _Renewal(msgspec.Struct, frozen=True):
    """A request whose every claim was granted, and these grants: the same request prolongs them as they are."""

    incarnation: int
    claims: tuple[Claim, ...]
    verdict: Verdict
    grants: tuple[Grant, ...]
    version: int
    """The version of the voter's grants."""


class Voter:
    """A voter, which grants at most one lease of an egress IP at a time. It stores nothing.

    At rest each heartbeat of a node claims the same again. As long as no grant was made or ended for any other reason,
    the answer is the same too, and the grants only end later.
    """

    def __init__(self, silent_until: int) -> None:
        """``silent_until``: one lease time after the start, because earlier grants are forgotten."""
        self.silent_until = silent_until
        self._last_end: int | None = None
        """The end of the last grant; None: unknown."""
        self.grants: dict[str, Grant] = {}
        self._version = 0
        """Grows before a grant is made or ended for any other reason than a renewal."""
        self._renewals: dict[str, _Renewal] = {}
        """The last request of each node."""

    @property
    def granted_until(self) -> int:
        """Return the end of the last grant, including grants of an earlier process."""
        if self._last_end is None:
            self._last_end = max([self.silent_until, *(grant.until for grant in self.grants.values())])
        return self._last_end

    def vote(
        self,
        node: str,
        incarnation: int,
        claims: tuple[Claim, ...],
        duration_ns: int,
        limit_ns: int,
        now: int,
    ) -> Verdict:
        """Vote on each claim separately.

        ``limit_ns``: the voter's own lease time, which is the longest that it grants.
        """
        renewal = self._renewals.get(node)
        if (
            renewal is not None
            and renewal.version == self._version
            and renewal.incarnation == incarnation
            and (renewal.claims is claims or renewal.claims == claims)
            and now >= self.silent_until
            and duration_ns <= limit_ns
        ):
            self._prolong(renewal.grants, now + duration_ns)
            return renewal.verdict
        verdict = self._judge(node, incarnation, claims, duration_ns, limit_ns, now)
        self._renewals.pop(node, None)
        if not verdict.refused:
            grants = tuple(self.grants[claim.id] for claim in claims)
            self._renewals[node] = _Renewal(incarnation, claims, verdict, grants, self._version)
        return verdict

    def _prolong(self, grants: Iterable[Grant], until: int) -> None:
        # The end of the last grant comes first: an error on the way through the grants must not leave it too early.
        self._last_end = max(self.granted_until, until) if grants else self._last_end
        for grant in grants:
            # If the lease time was shortened, the lease of an earlier request may end later.
            if until > grant.until:
                grant.until = until

    def _judge(
        self,
        node: str,
        incarnation: int,
        claims: Iterable[Claim],
        duration_ns: int,
        limit_ns: int,
        now: int,
    ) -> Verdict:
        granted, refused = [], []
        for claim in claims:
            refusal = self._refusal(node, claim, duration_ns, limit_ns, now)
            if refusal is not None:
                refused.append(refusal)
                continue
            before = self.grants.get(claim.id)
            # If the lease time was shortened, the lease of an earlier request may end later.
            kept = before.until if before and before.holder == node else 0
            until = max(now + duration_ns, kept)
            # If this grant replaces one of another node, that one has ended.
            self._last_end = max(self.granted_until, until)
            if before and (before.holder, before.incarnation, before.epoch) == (
                node,
                incarnation,
                claim.epoch,
            ):
                before.until = until
            else:
                self._version += 1
                self.grants[claim.id] = Grant(node, incarnation, claim.epoch, until)
            granted.append(claim.id)
        return Verdict(tuple(granted), tuple(refused))

    def _refusal(self, node: str, claim: Claim, duration_ns: int, limit_ns: int, now: int) -> Refusal | None:
        if now < self.silent_until:
            return Refusal(claim.id, SILENT, remaining_ns=self.silent_until - now)
        if duration_ns > limit_ns:
            return Refusal(claim.id, DURATION)
        grant = self.grants.get(claim.id)
        if grant is None:
            full = len(self.grants) >= MAX_IDS
            return Refusal(claim.id, HELD, remaining_ns=SECOND) if full else None
        if grant.holder != node and grant.until > now:
            return Refusal(claim.id, HELD, grant.holder, grant.epoch, grant.until - now)
        if claim.epoch < grant.epoch or (claim.epoch == grant.epoch and grant.holder != node):
            return Refusal(claim.id, EPOCH, grant.holder, grant.epoch)
        return None

    def forget(self, keep: Collection[str], now: int) -> None:
        """Drop the grants that ended long ago, except those of ``keep``: their leases ended still earlier."""
        self._last_end = None
        kept = {
            identity: grant
            for identity, grant in self.grants.items()
            if identity in keep or now < grant.until + FORGET_NS
        }
        self._version += len(kept) != len(self.grants)
        self.grants = kept
        self._renewals = {n: last for n, last in self._renewals.items() if last.version == self._version}

    def release(self, release: Release, now: int) -> None:
        """End the grant, no matter which node passed the release on. A release of an older epoch changes nothing."""
        grant = self.grants.get(release.id)
        if (
            grant
            and (grant.holder, grant.incarnation) == (release.node, release.incarnation)
            and grant.epoch <= release.epoch
            and grant.until > now
        ):
            self._version += 1
            self.grants[release.id] = replace(grant, until=now)
            self._last_end = None
