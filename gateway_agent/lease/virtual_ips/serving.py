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
"""Times after a takeover at which an address is announced: announcements can be lost, and Linux ignores some for a
second.
"""
REMINDER_NS = 60 * SECOND
PROBE_NS = 5 * SECOND
"""Interval at which a master probes its own address: only so is a machine detected that merely answers."""
GRACE_NS = 100 * MILLISECOND
"""Time after a takeover in which a claim may come from the previous master."""
CONTESTED_NS = 1 * SECOND
"""Mean interval of announcements against another claimant."""
CONTESTED_AT_ONCE = 3
"""Number of such announcements that need not wait: until one is received, packets go to the other machine."""


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
    """Return for how long the fence opens: with the ticket's time, less than any voter's grant at any clock rate."""
    return int(duration_ns * (1 - 2 * RATE_BOUND)) - MARGIN_NS - ticket_ns(duration_ns)


@dataclass
class _VirtualIP:
    address: str
    interface: str
    opened_by: int = 0
    """Number of the request whose grants opened the fence last."""
    announcements: list[int] = field(default_factory=list)
    since: int = 0
    probe_at: int = 0
    contested_at: int = -NEVER
    """The moment of the last announcement against another claimant, past or planned."""
    spaced_at: int = -NEVER
    """The moment of the next such announcement if all announcements were evenly spaced."""


class VirtualIPs:
    """The virtual addresses of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._virtual_ips: dict[str, _VirtualIP] = {}
        self._placed_by: tuple[object, object] | None = None
        """The leases and specs by which the virtual addresses were chosen."""
        self._opened_at = -1
        """The value of ``renewals`` for which the fence is open; -1: not known."""
        self._next_wake: int | None = NEVER
        """Moment of the next announcement or probe; None: not known."""
        self._tickets: list[Ticket] = []
        self._closing: list[str] = []
        """Addresses that this node no longer serves, and whose fence is not closed yet."""

    def addresses(self) -> dict[str, str]:
        """Return the interfaces of the addresses that this node serves."""
        return {virtual_ip.address: virtual_ip.interface for virtual_ip in self._virtual_ips.values()}

    def ask(self, request: Request, specs: Mapping[str, EgressIPSpec]) -> None:
        """Queue a ticket for a request that is about to be sent, if the request claims a virtual address."""
        if any(identity in specs and specs[identity].address for identity in request.claims):
            self._tickets.append(Ticket(request.seq, ticket_ns(request.duration_ns)))

    def reconcile(
        self,
        held: Mapping[str, LeaseState],
        specs: Mapping[str, EgressIPSpec],
        now: int,
        before: list[Any],
        renewals: int = -1,
    ) -> list[Effect]:
        """Append the effects that precede any message to ``before``; return the effects that follow the messages.

        ``held``: the leases that have not ended. ``renewals``: grows with each that is made or renewed, -1: unknown.

        The network learns of a new master before the workers, whose packets wait for the new master: replies must find
        it. Neither those packets nor a closed fence need the address on this node; so addresses are added and removed
        last: on a machine that is busy with other interfaces, the kernel delays that.
        """
        removed, added = self._place(held, specs, now)
        effects: list[Effect] = [Close(tuple(self._closing))] if self._closing else []
        effects += self._tickets
        before += [*effects, *self._open(held, renewals), *self._announce(now)]
        # Cleared only here: an error before this line must not lose the closing of a fence. Closing it twice is
        # harmless.
        self._tickets, self._closing = [], []
        return [*removed, *added, *self._probe(now)]

    def _place(
        self, held: Mapping[str, LeaseState], specs: Mapping[str, EgressIPSpec], now: int
    ) -> tuple[list[Effect], list[Effect]]:
        """Choose the virtual addresses by leases and specs. Return the effects that remove some, and that add some."""
        if self._placed_by is not None and self._placed_by[0] is held and self._placed_by[1] is specs:
            return [], []
        self._placed_by = self._next_wake = None
        served, added = self._served(held, specs), list[Effect]()
        removed = self._leave(served)
        for identity, interface in served.items():
            if identity not in self._virtual_ips:
                virtual_ip = self._virtual_ips[identity] = _VirtualIP(specs[identity].address, interface)
                virtual_ip.announcements = [now + after for after in ANNOUNCED_NS]
                virtual_ip.since, virtual_ip.probe_at = now, now + SECOND
                added.append(AddAddress(virtual_ip.address, virtual_ip.interface))
        self._placed_by, self._opened_at = (held, specs), -1
        return removed, added

    def _open(self, held: Mapping[str, LeaseState], renewals: int) -> Iterable[Effect]:
        """Yield what opens the fence for the leases that were made or renewed."""
        if renewals != -1 and renewals == self._opened_at:
            return
        self._opened_at = renewals
        opened: dict[tuple[int, int], list[str]] = {}
        for identity, virtual_ip in self._virtual_ips.items():
            lease = held[identity]
            if lease.granted_seq > virtual_ip.opened_by:
                virtual_ip.opened_by = lease.granted_seq
                opened.setdefault((lease.granted_seq, lease.duration_ns), []).append(virtual_ip.address)
        for (seq, duration_ns), addresses in sorted(opened.items()):
            yield Open(seq, tuple(addresses), open_ns(duration_ns))

    def _served(self, held: Mapping[str, LeaseState], specs: Mapping[str, EgressIPSpec]) -> dict[str, str]:
        """Return the interface of each virtual address that this node is to serve, by egress id."""
        return {
            # An address that is being handed over stays on its interface.
            identity: spec.interface or self._virtual_ips[identity].interface
            for identity in held
            if (spec := specs.get(identity))
            and spec.address
            and (spec.interface or identity in self._virtual_ips)
        }

    def _leave(self, served: Mapping[str, str]) -> list[Effect]:
        gone = {
            identity: virtual_ip
            for identity, virtual_ip in self._virtual_ips.items()
            if served.get(identity) != virtual_ip.interface
        }
        self._closing += [virtual_ip.address for virtual_ip in gone.values()]
        self._virtual_ips = {
            identity: each for identity, each in self._virtual_ips.items() if identity not in gone
        }
        return [RemoveAddress(each.address, each.interface) for each in gone.values()]

    def _announce(self, now: int) -> Iterable[Effect]:
        if now < self.next_wake():
            return
        self._next_wake = None
        for virtual_ip in self._virtual_ips.values():
            due = [at for at in virtual_ip.announcements if at <= now]
            if due:
                rest = [at for at in virtual_ip.announcements if at > now]
                virtual_ip.announcements = rest or [now + REMINDER_NS]
                yield Announce(virtual_ip.address, virtual_ip.interface)

    def _probe(self, now: int) -> Iterable[Effect]:
        if now < self.next_wake():
            return
        self._next_wake = None
        for virtual_ip in self._virtual_ips.values():
            if now >= virtual_ip.probe_at:
                virtual_ip.probe_at = now + PROBE_NS
                yield Probe(virtual_ip.address, virtual_ip.interface)

    def on_conflict(self, address: str, now: int) -> str:
        """Announce an address again that another machine claims.

        Return its id; empty if this node does not serve it.
        """
        for identity, virtual_ip in self._virtual_ips.items():
            if virtual_ip.address == address and now >= virtual_ip.since + GRACE_NS:
                if now >= virtual_ip.contested_at:
                    self._next_wake = None
                    # The announcement may be delayed but is never left out: after each claim, this node announces last.
                    virtual_ip.contested_at = max(
                        now, virtual_ip.spaced_at - (CONTESTED_AT_ONCE - 1) * CONTESTED_NS
                    )
                    virtual_ip.spaced_at = max(virtual_ip.spaced_at, virtual_ip.contested_at) + CONTESTED_NS
                    virtual_ip.announcements = sorted([virtual_ip.contested_at, *virtual_ip.announcements])
                return identity
        return ""

    def next_wake(self) -> int:
        """Return the moment of the next announcement or probe."""
        if self._next_wake is None:
            moments = (
                min(virtual_ip.announcements[0], virtual_ip.probe_at)
                for virtual_ip in self._virtual_ips.values()
            )
            self._next_wake = min(moments, default=NEVER)
        return self._next_wake
