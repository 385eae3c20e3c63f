"""Who else claims a virtual address: a machine that is no node of ours, or is set up with the address by mistake."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .keeping import Conflict, EgressWish
from .lease import MILLISECOND, NEVER, SECOND
from .placement import draw
from .serving import Probe

ANSWER_NS = 200 * MILLISECOND
"""Who has an address answers a probe within this."""
SETTLE_NS = 60 * MILLISECOND
"""From a free answer to an address that answers itself, with room for lateness."""
FORGET_NS = 30 * SECOND
"""A claim that is not repeated within this is over: probes go out every few seconds."""


@dataclass
class _Claim:
    conflict: Conflict
    heard_at: int


class Claims:
    """Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._by_address: dict[str, _Claim] = {}
        self._asked: dict[str, int] = {}
        self._wanted: dict[str, tuple[int, int]] = {}
        """Since when, and when last, it was asked for."""
        self._awaited: set[int] = set()
        self._probes: list[Probe] = []

    def hear(self, identity: str, address: str, mac: str, interface: str, now: int, wall_ns: int) -> bool:
        """``identity`` is empty where this node does not serve the address: then the claim may be right.

        True where it is news.
        """
        before = self._by_address.get(address)
        known = before is not None and before.conflict.mac == mac and now < before.heard_at + FORGET_NS
        since = before.conflict.since if before is not None and known else wall_ns / SECOND
        self._by_address[address] = _Claim(Conflict(identity, address, mac, interface, since), now)
        return not known

    def free(self, address: str, interface: str, rank: int, now: int) -> bool:
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

    def taken(self, me: str, wanted: Iterable[EgressWish], now: int) -> list[str]:
        """Ids whose address somebody else may have: no majority keeps two from serving one, so the LAN is asked."""
        return [
            wish.id
            for wish in wanted
            if wish.address and wish.ready and not self.free(wish.address, wish.interface, _rank(me, wish), now)
        ]

    def probes(self) -> list[Probe]:
        """To be sent."""
        probes, self._probes = self._probes, []
        return probes

    def conflicts(self, now: int) -> tuple[Conflict, ...]:
        """Those that are not over."""
        claims = (c for c in self._by_address.values() if c.conflict.id)
        return tuple(claim.conflict for claim in claims if now < claim.heard_at + FORGET_NS)

    def next_wake(self) -> int:
        """When the next answer is known."""
        return min(self._awaited, default=NEVER)

    def wake(self, now: int) -> None:
        self._awaited = {at for at in self._awaited if at > now}


def _rank(me: str, wish: EgressWish) -> int:
    order = sorted(wish.eligible, key=lambda name: draw(wish.id, name))
    return order.index(me) if me in order else len(order)
