"""Who else claims a virtual address: a machine that is no node of ours, or is set up with the address by mistake."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..ipc import Conflict, EgressIPSpec
from ..mastership.placement import rendezvous_hash
from ..voting.protocol import MILLISECOND, NEVER, SECOND
from .serving import GRACE_NS, Probe

ANSWER_NS = 200 * MILLISECOND
"""Who has an address answers a probe within this."""
SETTLE_NS = 60 * MILLISECOND
"""From a free answer to an address that answers itself, with room for lateness."""
FORGET_NS = 30 * SECOND
"""A claim that is not repeated within this is over: probes go out every few seconds."""
ABSENT_NS = 2 * SECOND
"""Who has not answered for so long, with a question each second, has let go of an address that is waited for."""


@dataclass
class Vacancy:
    """What a node has learned of addresses that no node of the cluster is known to have had."""

    pending: list[str] = field(default_factory=list)
    """Ids that must wait for an answer."""
    occupied: dict[str, str] = field(default_factory=dict)
    """By id why it cannot be taken: another machine has the address."""


@dataclass
class _ObservedClaim:
    conflict: Conflict
    heard_at: int
    first_at: int


class ConflictDetection:
    """Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._by_address: dict[str, _ObservedClaim] = {}
        self._asked: dict[str, int] = {}
        self._wanted: dict[str, tuple[int, int]] = {}
        """Since when, and when last, it was asked for."""
        self._awaited: set[int] = set()
        self._probes: list[Probe] = []
        self._vacant: dict[str, int] = {}
        """When each address was last found to be nobody's."""

    def on_arp_claim(
        self, identity: str, address: str, mac: str, interface: str, now: int, wall_ns: int
    ) -> bool:
        """``identity`` is empty where this node does not serve the address: then the claim may be right.

        True where it is news.
        """
        before = self._by_address.get(address)
        known = before is not None and before.conflict.mac == mac and now < before.heard_at + FORGET_NS
        since = before.conflict.since if before is not None and known else wall_ns / SECOND
        first_at = before.first_at if before is not None and known else now
        self._by_address[address] = _ObservedClaim(
            Conflict(identity, address, mac, interface, since), now, first_at
        )
        return not known

    def probe_is_clear(self, address: str, interface: str, rank: int, now: int) -> bool:
        """Whether nobody answered when this node asked, a moment ago. Asks where that has not been done yet.

        Who has a worse ``rank`` asks later, so that the better one has the address by then and answers.
        """
        since, last = self._wanted.get(address, (now, now))
        since = since if now < last + SECOND else now
        self._wanted[address] = since, now
        turn = since + rank * (ANSWER_NS + SETTLE_NS)
        if now < turn:
            self._awaited.add(turn)
            return False
        asked = self._asked.get(address)
        if asked is None or now >= asked + SECOND or asked < turn:
            self._asked[address] = now
            self._awaited.add(now + ANSWER_NS)
            self._probes.append(Probe(address, interface))
            return False
        claim = self._by_address.get(address)
        return now >= asked + ANSWER_NS and (claim is None or claim.heard_at < asked)

    def vacancy(self, wanted: Iterable[EgressIPSpec], now: int) -> Vacancy:
        """Ask the LAN for addresses that nobody of ours is known to have had, and say what is known of them.

        Only before the first takeover: a failover waits for no answer. What is heard for a moment only may be the
        announcement of the first master, of which this node learns next.
        """
        found = Vacancy()
        for wish in wanted:
            claim, since = self._by_address.get(wish.address), self._vacant.get(wish.address)
            if claim and claim.first_at + GRACE_NS <= now < claim.heard_at + ABSENT_NS:
                where = f"{claim.conflict.mac} on {claim.conflict.interface}"
                found.occupied[wish.id] = (
                    f"{wish.address} belongs to another machine, {where}: use another address"
                )
            known = since is not None and now < since + FORGET_NS and not (claim and claim.heard_at > since)
            if not known and self.probe_is_clear(wish.address, wish.interface, 0, now):
                self._vacant[wish.address] = now
            elif not known:
                found.pending.append(wish.id)
        return found

    def unavailable(self, me: str, wanted: Iterable[EgressIPSpec], now: int) -> list[str]:
        """Ids whose address somebody else may have: no majority keeps two from serving one, so the LAN is asked."""
        return [
            wish.id
            for wish in wanted
            if wish.address
            and wish.ready
            and not self.probe_is_clear(wish.address, wish.interface, _rank(me, wish), now)
        ]

    def probes(self) -> list[Probe]:
        """To be sent."""
        probes, self._probes = self._probes, []
        return probes

    def forget(self, keep: Collection[str]) -> None:
        """Drop what is known of other addresses than ``keep``."""
        known: tuple[dict[str, Any], ...] = (self._by_address, self._asked, self._wanted, self._vacant)
        for each in known:
            for address in each.keys() - keep:
                del each[address]

    def conflicts(self, now: int) -> tuple[Conflict, ...]:
        """Those that are not over."""
        claims = (c for c in self._by_address.values() if c.conflict.id)
        return tuple(claim.conflict for claim in claims if now < claim.heard_at + FORGET_NS)

    def next_wake(self) -> int:
        """When the next answer is known."""
        return min(self._awaited, default=NEVER)

    def wake(self, now: int) -> None:
        self._awaited = {at for at in self._awaited if at > now}


def _rank(me: str, wish: EgressIPSpec) -> int:
    order = sorted(wish.eligible, key=lambda name: rendezvous_hash(wish.id, name))
    return order.index(me) if me in order else len(order)
