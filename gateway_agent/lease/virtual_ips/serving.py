"""The virtual addresses that this node serves: fence, addresses and announcements, as effects.

Theory of operation: ticket and grant
-------------------------------------
The kernel's fence drops everything with a virtual address as its source unless the fence is open for that address. A
process can stop between any two lines, so no value that it has read from a clock says when the next line runs. Hence
the fence is opened in two steps, and the kernel compares the times:

1. Before a request is sent, a *ticket* with the request's number and a time-out is written into the kernel.
2. When a majority has granted the request, one transaction opens the fence for the rest of the lease time, on condition
   that this ticket is still there. If the process was stopped meanwhile, the ticket has expired: nothing opens.
3. Both time-outs together are shorter than the lease, which is shorter than each grant. So the fence has closed by
   itself before any voter grants the address to another node.
4. A release is sent only after the fence was closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..ipc import EgressIPSpec
from ..voting.protocol import (
    MARGIN_NS,
    MILLISECOND,
    NEVER,
    RATE_BOUND,
    SECOND,
    LeaseState,
    Request,
    ticket_ns,
)

ANNOUNCED_NS = tuple(ms * MILLISECOND for ms in (0, 20, 100, 300, 1000, 1200))
"""Times after a takeover at which an address is announced: an announcement can be lost, and Linux ignores some for a
second.
"""
REMINDER_NS = 60 * SECOND
PROBE_NS = 5 * SECOND
"""Interval at which a master probes its own address: another machine that only answers is not detected otherwise."""
GRACE_NS = 100 * MILLISECOND
"""A claim that is received so soon after a takeover may come from the previous master."""
CONTESTED_NS = 1 * SECOND
"""Announcements against another claimant come no more often, in the long run."""
CONTESTED_AT_ONCE = 3
"""Number of such announcements that need not wait: until ours is received, packets go to the other machine."""


class Ticket(msgspec.Struct, frozen=True):
    """Write the ticket of a request into the fence, before the request is sent."""

    number: int
    lifetime_ns: int


class Open(msgspec.Struct, frozen=True):
    """Open the fence, if the ticket is still there."""

    number: int
    addresses: tuple[str, ...]
    lifetime_ns: int


class Close(msgspec.Struct, frozen=True):
    """Close the fence before anything that follows: other nodes may then take the addresses."""

    addresses: tuple[str, ...]


class AddAddress(msgspec.Struct, frozen=True):
    """Add a virtual address to an interface."""

    address: str
    interface: str


class RemoveAddress(msgspec.Struct, frozen=True):
    """Remove a virtual address from an interface."""

    address: str
    interface: str


class Announce(msgspec.Struct, frozen=True):
    """Send a gratuitous ARP request, or a neighbour advertisement."""

    address: str
    interface: str


class Probe(msgspec.Struct, frozen=True):
    """Ask the LAN for other machines with the address."""

    address: str
    interface: str


Effect = Ticket | Open | Close | AddAddress | RemoveAddress | Announce | Probe


def open_ns(duration_ns: int) -> int:
    """Return for how long the fence opens: with the ticket's time shorter than any voter's grant at any clock rate."""
    return int(duration_ns * (1 - 2 * RATE_BOUND)) - MARGIN_NS - ticket_ns(duration_ns)


@dataclass
class _VirtualIP:
    address: str
    interface: str
    opened_by: int = 0
    """The request whose grants have opened the fence last."""
    announcements: list[int] = field(default_factory=list)
    since: int = 0
    probe_at: int = 0
    contested_at: int = -NEVER
    """The moment of the last announcement against another claimant, past or planned."""
    spaced_at: int = -NEVER
    """The moment of the next such announcement if all were spaced evenly."""


class VirtualIPs:
    """Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._places: dict[str, _VirtualIP] = {}
        self._tickets: list[Ticket] = []
        self._closing: list[str] = []
        """Addresses of places that are left: what closes their fence was not handed out yet."""

    def addresses(self) -> dict[str, str]:
        """Return the interfaces of the addresses that this node serves."""
        return {place.address: place.interface for place in self._places.values()}

    def ask(self, request: Request, specs: Mapping[str, EgressIPSpec]) -> None:
        """Queue a ticket for a request that is about to be sent, if it asks for a virtual address."""
        if any(identity in specs and specs[identity].address for identity in request.claims):
            self._tickets.append(Ticket(request.seq, ticket_ns(request.duration_ns)))

    def reconcile(
        self,
        held: Mapping[str, LeaseState],
        specs: Mapping[str, EgressIPSpec],
        now: int,
        before: list[Any],
    ) -> list[Effect]:
        """Append to ``before`` what is to be done before anything is sent; return what is to be done after that.

        ``held``: the leases that run. The network learns of a new master before the workers do, whose packets wait for
        it: their answers must find the way. They need no address on this node, and neither does the closed fence; so
        addresses come and go last: where the machine is busy with others' interfaces, the kernel lets that wait.
        """
        served = self._served(held, specs)
        removed = self._leave(served)
        effects: list[Effect] = [Close(tuple(self._closing))] if self._closing else []
        effects += self._tickets
        opened: dict[tuple[int, int], list[str]] = {}
        added: list[Effect] = []
        for identity, interface in served.items():
            place = self._places.get(identity)
            if place is None:
                place = self._places[identity] = _VirtualIP(specs[identity].address, interface)
                place.announcements = [now + after for after in ANNOUNCED_NS]
                place.since, place.probe_at = now, now + SECOND
                added.append(AddAddress(place.address, place.interface))
            lease = held[identity]
            if lease.granted_seq > place.opened_by:
                place.opened_by = lease.granted_seq
                opened.setdefault((lease.granted_seq, lease.duration_ns), []).append(place.address)
        effects += [
            Open(seq, tuple(addresses), open_ns(duration_ns))
            for (seq, duration_ns), addresses in sorted(opened.items())
        ]
        before += [*effects, *self._announce(now)]
        # Only now: an error on the way here must not lose what closes a fence. Closing it twice harms nothing.
        self._tickets, self._closing = [], []
        return [*removed, *added, *self._probe(now)]

    def _served(self, held: Mapping[str, LeaseState], specs: Mapping[str, EgressIPSpec]) -> dict[str, str]:
        """Return the interface of each virtual address that this node is to serve, by egress id."""
        return {
            # An address that is about to leave stays where it is.
            identity: spec.interface or self._places[identity].interface
            for identity in held
            if (spec := specs.get(identity)) and spec.address and (spec.interface or identity in self._places)
        }

    def _leave(self, served: Mapping[str, str]) -> list[Effect]:
        gone = [place for identity, place in self._places.items() if served.get(identity) != place.interface]
        self._closing += [place.address for place in gone]
        self._places = {i: place for i, place in self._places.items() if place not in gone}
        return [RemoveAddress(place.address, place.interface) for place in gone]

    def _announce(self, now: int) -> Iterable[Effect]:
        for place in self._places.values():
            due = [at for at in place.announcements if at <= now]
            if due:
                rest = [at for at in place.announcements if at > now]
                place.announcements = rest or [now + REMINDER_NS]
                yield Announce(place.address, place.interface)

    def _probe(self, now: int) -> Iterable[Effect]:
        for place in self._places.values():
            if now >= place.probe_at:
                place.probe_at = now + PROBE_NS
                yield Probe(place.address, place.interface)

    def on_conflict(self, address: str, now: int) -> str:
        """Announce an address again that another machine claims. Return its id; empty if it is not served here."""
        for identity, place in self._places.items():
            if place.address == address and now >= place.since + GRACE_NS:
                if now >= place.contested_at:
                    # The last word is ours, however soon after the one before the other's comes.
                    place.contested_at = max(now, place.spaced_at - (CONTESTED_AT_ONCE - 1) * CONTESTED_NS)
                    place.spaced_at = max(place.spaced_at, place.contested_at) + CONTESTED_NS
                    place.announcements = sorted([place.contested_at, *place.announcements])
                return identity
        return ""

    def next_wake(self) -> int:
        """Return when the next announcement or probe is due."""
        return min((min(p.announcements[0], p.probe_at) for p in self._places.values()), default=NEVER)
