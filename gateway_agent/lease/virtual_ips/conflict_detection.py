"""Detect machines that claim a virtual address: foreign ones, or nodes configured with it by mistake (RFC 5227)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..ipc import Conflict, EgressIPSpec
from ..placement.placement import rendezvous_hash
from ..voting.protocol import MILLISECOND, NEVER, SECOND
from .serving import GRACE_NS, Probe

ANSWER_NS = 200 * MILLISECOND
"""Time within which a machine answers a probe for its address."""
SETTLE_NS = 60 * MILLISECOND
"""Time from the end of a probe to an address that this node defends, with room for delays."""
FORGET_NS = 30 * SECOND
"""Time after which a claim that is not repeated is over: probes are sent every few seconds."""
ABSENT_NS = 2 * SECOND
"""Time without an answer, with a probe each second, after which a machine has given the address up."""


@dataclass
class Vacancy:
    """The result of probes for addresses that no node of the cluster is known to have had."""

    pending: list[str] = field(default_factory=list)
    """Ids whose probes are not over yet."""
    occupied: dict[str, str] = field(default_factory=dict)
    """The reason, by id, why an address cannot be taken over: another machine has it."""


@dataclass
class _ObservedClaim:
    conflict: Conflict
    received_at: int
    first_at: int


class ConflictDetection:
    """The claims and probes of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._by_address: dict[str, _ObservedClaim] = {}
        self._asked: dict[str, int] = {}
        self._wanted: dict[str, tuple[int, int]] = {}
        """First and last moment at which each address was wanted."""
        self._awaited: set[int] = set()
        self._probes: list[Probe] = []
        self._vacant: dict[str, int] = {}
        """The moment at which each address was last found to be free."""
        self._next_forget = 0

    def on_arp_claim(
        self, identity: str, address: str, mac: str, interface: str, now: int, wall_ns: int
    ) -> bool:
        """Note that another machine claims an address. Return True if the claim is new.

        ``identity`` is empty if this node does not serve the address: then the claim may be legitimate.
        """
        before = self._by_address.get(address)
        known = before is not None and before.conflict.mac == mac and now < before.received_at + FORGET_NS
        since = before.conflict.since if before is not None and known else wall_ns / SECOND
        first_at = before.first_at if before is not None and known else now
        self._by_address[address] = _ObservedClaim(
            Conflict(identity, address, mac, interface, since), now, first_at
        )
        return not known

    def ask(self, address: str, interface: str, rank: int, now: int) -> None:
        """Queue a probe for ``address`` if none was sent within the last second.

        A node of a worse ``rank`` probes later: by then the node of the better rank has the address and answers.
        """
        since, last = self._wanted.get(address, (now, now))
        since = since if now < last + SECOND else now
        self._wanted[address] = since, now
        probe_at, asked = since + rank * (ANSWER_NS + SETTLE_NS), self._asked.get(address)
        if now < probe_at:
            self._awaited.add(probe_at)
        elif asked is None or now >= asked + SECOND or asked < probe_at:
            self._asked[address] = now
            self._awaited.add(now + ANSWER_NS)
            self._probes.append(Probe(address, interface))

    def is_clear(self, address: str, rank: int, now: int) -> bool:
        """Return True if no machine answered the last probe at this node's rank within :data:`ANSWER_NS`."""
        claim, asked = self._by_address.get(address), self._asked.get(address)
        since, _ = self._wanted.get(address, (now, now))
        if asked is None or asked < since + rank * (ANSWER_NS + SETTLE_NS):
            return False
        return now >= asked + ANSWER_NS and (claim is None or claim.received_at < asked)

    def probe_first_takeovers(self, wanted: Iterable[EgressIPSpec], now: int) -> None:
        """Probe the LAN for addresses that no node is known to have had, and note those that are free.

        Only a first takeover waits for the probes; a failover does not.
        """
        for spec in wanted:
            if not self._is_vacant(spec.address, now):
                self.ask(spec.address, spec.interface, 0, now)
                if self.is_clear(spec.address, 0, now):
                    self._vacant[spec.address] = now

    def vacancy(self, wanted: Iterable[EgressIPSpec], now: int) -> Vacancy:
        """Return the result of the probes for addresses that no node is known to have had.

        A short-lived claim may be the announcement of the first master, of which this node learns next.
        """
        found = Vacancy()
        for spec in wanted:
            claim = self._by_address.get(spec.address)
            if claim and claim.first_at + GRACE_NS <= now < claim.received_at + ABSENT_NS:
                place = f"{claim.conflict.mac} on {claim.conflict.interface}"
                found.occupied[spec.id] = (
                    f"{spec.address} belongs to another machine, {place}: use another address"
                )
            if not self._is_vacant(spec.address, now):
                found.pending.append(spec.id)
        return found

    def _is_vacant(self, address: str, now: int) -> bool:
        claim, since = self._by_address.get(address), self._vacant.get(address)
        return since is not None and now < since + FORGET_NS and not (claim and claim.received_at > since)

    def probe_each(self, me: str, wanted: Iterable[EgressIPSpec], now: int) -> None:
        """Probe the LAN for addresses that this node might take over without a majority."""
        for spec in wanted:
            if spec.address and spec.ready:
                self.ask(spec.address, spec.interface, _rank(me, spec), now)

    def unavailable(self, me: str, wanted: Iterable[EgressIPSpec], now: int) -> list[str]:
        """Return the ids whose address another machine may have, by the answers so far."""
        return [
            spec.id
            for spec in wanted
            if spec.address and spec.ready and not self.is_clear(spec.address, _rank(me, spec), now)
        ]

    def take_probes(self) -> list[Probe]:
        """Return the queued probes, and empty the queue."""
        probes, self._probes = self._probes, []
        return probes

    def conflicts(self, now: int) -> tuple[Conflict, ...]:
        """Return the current conflicts."""
        claims = (c for c in self._by_address.values() if c.conflict.id)
        return tuple(claim.conflict for claim in claims if now < claim.received_at + FORGET_NS)

    def next_wake(self) -> int:
        """Return the moment at which the next probe is over."""
        return min(self._awaited, default=NEVER)

    def wake(self, now: int) -> None:
        """Forget old claims and probes."""
        if self._awaited:
            self._awaited = {at for at in self._awaited if at > now}
        if now < self._next_forget:
            return
        self._next_forget = now + SECOND
        oldest = now - FORGET_NS
        self._by_address = {a: claim for a, claim in self._by_address.items() if claim.received_at > oldest}
        self._wanted = {a: (since, last) for a, (since, last) in self._wanted.items() if last > oldest}
        self._asked = {a: at for a, at in self._asked.items() if at > oldest}
        self._vacant = {a: at for a, at in self._vacant.items() if at > oldest}


def _rank(me: str, spec: EgressIPSpec) -> int:
    order = sorted(spec.eligible, key=lambda name: rendezvous_hash(spec.id, name))
    return order.index(me) if me in order else len(order)
