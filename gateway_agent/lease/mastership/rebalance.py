"""What a node hands over of its own accord, and to whom; and who is to have what others hand over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ..ipc import EgressIPSpec
from ..voting.protocol import SECOND, Release
from ..voting.voter_set import PROPOSER_LEASE
from .candidates import ElectionInput
from .placement import rendezvous_hash

REQUEST_TIMEOUT_NS = 4 * SECOND
"""For so long a wish of an operator waits for its node to become able: it may have been unheard for a moment."""
TARGET_NS = 1 * SECOND
"""How long the node to which something was handed over is given precedence."""
FAILBACK_NS = 10 * SECOND
"""How long a node must have been the right one before it is given anything back."""


class Gift(NamedTuple):
    """What is to become of something that this node holds; without a ``reason`` it keeps it."""

    heir: str = ""
    """Who is to have it; empty: nobody can."""
    reason: str = ""
    shared: bool = False
    """See :attr:`gateway_agent.lease.voting.protocol.Release.shared`."""


KEEP = Gift()


class Rebalance:
    """One node's. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, me: str) -> None:
        self._moves: dict[str, tuple[str, int]] = {}
        """By egress id the node that an operator wants as master, and until when."""
        self._me = me
        self._preferred: dict[str, tuple[str, int]] = {}
        self._targets: dict[str, tuple[str, int]] = {}
        self._shared: set[str] = set()

    def move(self, identity: str, to: str, now: int) -> None:
        """An operator wants ``to`` as master."""
        self._moves[identity] = to, now + REQUEST_TIMEOUT_NS

    def forget(self, keep: Collection[str]) -> None:
        """Drop what is known of other egress IPs than ``keep``."""
        self._moves = {i: move for i, move in self._moves.items() if i in keep}
        self._preferred = {i: home for i, home in self._preferred.items() if i in keep}

    def on_release(self, release: Release, now: int) -> None:
        """Somebody, perhaps this node, has let go of something."""
        if release.heir:
            self._targets[release.id] = (release.heir, now + TARGET_NS)
            (self._shared.add if release.shared else self._shared.discard)(release.id)

    def targets(self, now: int) -> dict[str, str]:
        """Who is to ask first for what was handed over, by egress id."""
        self._targets = {i: (heir, until) for i, (heir, until) in self._targets.items() if now < until}
        self._shared &= self._targets.keys()
        return {identity: heir for identity, (heir, _) in self._targets.items()}

    def shared(self) -> frozenset[str]:
        """Return what of :meth:`targets` was handed over in order to serve equally many."""
        return frozenset(self._shared)

    def is_open(self, wish: EgressIPSpec, situation: ElectionInput) -> bool:
        """Return whether what this node holds may be for another one."""
        return wish.leaving or wish.failback or wish.id in situation.fresh or wish.id in self._moves

    def target(
        self,
        wish: EgressIPSpec,
        order: Sequence[str],
        ideal: Sequence[str],
        situation: ElectionInput,
        masters: Mapping[str, str],
        sharing: bool,
        patient: bool,
        now: int,
    ) -> Gift:
        """To whom this node hands over what it holds, and why.

        ``order``: who can serve it, best first; ``ideal``: the same if nobody were master.
        ``masters``: all healthy masters by egress id, this node among them. ``sharing``: nothing is homeless or on its
        way to another node, so what each of them serves is known. ``patient``: what is
        to leave stays here until somebody can serve it.
        """
        others = [node for node in order if node != self._me]
        asked, until = self._moves.get(wish.id, ("", 0))
        if asked in others or now >= until:
            self._moves.pop(wish.id, None)
        if wish.leaving and not wish.ready:
            return KEEP if patient and not others else Gift(next(iter(others), ""), wish.reason)
        if asked in others:
            return Gift(asked, f"handed over to {asked} as asked")
        home = self._preferred_node(wish, ideal, now)
        if home in others:
            return Gift(home, f"{home} is back (failback: Automatic)")
        if sharing and wish.id in situation.fresh:
            return self._share(wish.id, others, situation, masters)
        return KEEP

    def _preferred_node(self, wish: EgressIPSpec, ideal: Sequence[str], now: int) -> str:
        """Where it belongs, where that has been the same node for a while."""
        home = ideal[0] if wish.failback and ideal and ideal[0] != self._me else ""
        known, since = self._preferred.get(wish.id, ("", now))
        since = since if home == known else now
        self._preferred[wish.id] = home, since
        return home if now >= since + FAILBACK_NS else ""

    def _share(
        self, identity: str, others: Sequence[str], situation: ElectionInput, masters: Mapping[str, str]
    ) -> Gift:
        """Return another node that serves fewer, by two at least, and the reason.

        One node gives at a time: of those that have something fresh to give, the one that serves the most.
        """
        load = Counter(node for i, node in masters.items() if i != PROPOSER_LEASE)
        givers = {masters[i] for i in situation.fresh if i in masters}
        if self._me != max(givers, key=lambda node: (load[node], rendezvous_hash("giver", node)), default=""):
            return KEEP
        settled = [n for n in others if self._is_settled(n, identity, situation, masters)]
        least = min(settled, key=lambda node: (load[node], rendezvous_hash(identity, node)), default="")
        return (
            Gift(least, f"{least} serves fewer", True)
            if least and load[self._me] - load[least] >= 2
            else KEEP
        )

    @staticmethod
    def _is_settled(node: str, identity: str, situation: ElectionInput, masters: Mapping[str, str]) -> bool:
        """Return whether ``node`` was there when ``identity`` was taken over: one that returns is given nothing back.

        A node that was not heard for a moment and has kept what it had was there.
        """
        member = situation.members.get(node)
        if member is None or identity in member.warming:
            return False
        kept = any(
            master == node and i != PROPOSER_LEASE and i not in situation.fresh
            for i, master in masters.items()
        )
        taken_at = situation.fresh[identity]
        return kept or situation.missed_at.get(node, taken_at) <= taken_at
