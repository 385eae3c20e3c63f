"""Carry out the effects of :mod:`gateway_agent.lease.virtual_ips.serving` in the kernel."""

from __future__ import annotations

import selectors
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from cni.kernel.errors import KernelError

from ...lease.ipc import KernelFailures
from ...lease.virtual_ips import serving
from ..sockets.arp_socket import Announcer
from .vip_addresses import Addresses
from .vip_fence import Fence

ACTION_NAMES: Mapping[type[serving.Effect], str] = {
    serving.Ticket: "ticket",
    serving.Open: "open",
    serving.AddAddress: "add",
    serving.RemoveAddress: "remove",
    serving.Announce: "announce",
    serving.Probe: "probe",
}
"""Names, in metrics, of the effects that can fail. A fence that cannot be closed ends the process instead."""
NO_ADDRESS = ""
"""The address of a ticket, which counts for all addresses."""


class VirtualAddresses:
    """Fence, addresses and announcements."""

    def __init__(self, selector: selectors.BaseSelector, claimed: Callable[[str, str, str], None]) -> None:
        """Remove the state that an earlier process has left, whose leases this process does not have.

        ``claimed(address, mac, interface)`` is called for each other machine that has an address.
        """
        self._failing: dict[tuple[str, str], str] = {}
        """Error of the last attempt, by operation and address."""
        self._failed: Counter[tuple[str, str]] = Counter()
        self._fence = Fence()
        self._addresses = Addresses()
        self._announcer = Announcer()
        self._announcer.listen(selector, claimed)
        self._fence.close_all()
        if left := self._addresses.ours():
            with self._addresses.listed_once():
                for address, interface in left:
                    self._addresses.remove(address, interface)

    @property
    def problems(self) -> tuple[str, ...]:
        """Return the current errors, each text once."""
        return tuple(dict.fromkeys(self._failing.values()))

    @property
    def failures(self) -> tuple[KernelFailures, ...]:
        """Return the number of failures by operation, for the addresses that this node may serve."""
        return tuple(
            KernelFailures(address, what, number) for (what, address), number in sorted(self._failed.items())
        )

    def watch(self, targets: Iterable[tuple[str, str]]) -> None:
        """Listen, from now on, for these pairs of address and interface: all that this node may serve."""
        targets = tuple(targets)
        known = {NO_ADDRESS, *(address for address, _ in targets)}
        for key in [key for key in self._failed if key[1] not in known]:
            del self._failed[key]
        self._announcer.watch(targets)

    def next_wake(self) -> int:
        """Return the moment at which :meth:`resume` is due."""
        return self._announcer.next_wake()

    def resume(self, now: int) -> None:
        """Receive frames again that were muted in a flood. Raises OSError."""
        self._announcer.resume(now)

    def carry_out(self, effect: serving.Effect) -> None:
        """Carry out an effect.

        Raises :class:`KernelError` if the fence cannot be closed: then no message may be sent.
        """
        if isinstance(effect, serving.Close):
            self._fence.close(effect.addresses)
            self._drop(frozenset(effect.addresses))
            return
        try:
            problem = self._try(effect)
        except (KernelError, OSError) as error:
            problem = str(error)
        for address in _addresses(effect) if problem or self._failing else ():
            key = ACTION_NAMES[type(effect)], address
            if problem:
                self._fail(key, problem)
            else:
                self._failing.pop(key, None)

    def move_all(self, effects: Sequence[serving.AddAddress | serving.RemoveAddress]) -> None:
        """Add and remove addresses together, in this order: with many of them a list for each takes too long."""
        try:
            with self._addresses.listed_once():
                for effect in effects:
                    self.carry_out(effect)
        except KernelError as error:
            for effect in effects:
                if isinstance(effect, serving.RemoveAddress):
                    # Another node has the address soon: this one must not answer for it, whatever is still configured.
                    with suppress(OSError):
                        self._announcer.silence(effect.address, effect.interface)
                self._fail((ACTION_NAMES[type(effect)], effect.address), str(error))

    def _fail(self, key: tuple[str, str], problem: str) -> None:
        self._failing[key] = problem
        self._failed[key] += 1

    def _try(self, effect: serving.Effect) -> str:
        """Carry out an effect. Return the problem; empty if there is none."""
        if isinstance(effect, serving.Ticket):
            self._fence.ticket(effect.number, effect.lifetime_ns)
        elif isinstance(effect, serving.Open):
            if not self._fence.open(effect.number, effect.addresses, effect.lifetime_ns):
                return f"the fence was not opened for {', '.join(effect.addresses)}: the lease was granted too late"
        elif isinstance(effect, serving.AddAddress):
            self._addresses.add(effect.address, effect.interface)
            self._announcer.answer(effect.address, effect.interface)
        elif isinstance(effect, serving.RemoveAddress):
            self._announcer.silence(effect.address, effect.interface)
            self._addresses.remove(effect.address, effect.interface)
        elif isinstance(effect, serving.Probe | serving.Announce):
            asks = isinstance(effect, serving.Probe)
            say = self._announcer.probe if asks else self._announcer.announce
            sent = say(effect.address, effect.interface)
            if not sent and self._announcer.is_asked(effect.interface):
                doing = "asked for" if asks else "announced"
                return f"{effect.address} could not be {doing} on {effect.interface}: the interface is down or gone"
        return ""

    def _drop(self, addresses: Collection[str]) -> None:
        """Forget the failures of addresses that this node no longer serves, except the failure to remove them."""
        for key in [
            key
            for key in self._failing
            if key[1] in addresses and key[0] != ACTION_NAMES[serving.RemoveAddress]
        ]:
            del self._failing[key]

    def retry_failed(self, wanted: Mapping[str, str]) -> None:
        """Repair addresses that other programs have changed. ``wanted``: interfaces by address."""
        there = dict.fromkeys(self._addresses.ours())
        missing = [each for each in wanted.items() if each not in there]
        moved: list[serving.AddAddress | serving.RemoveAddress] = [
            serving.RemoveAddress(address, interface)
            for address, interface in there
            if wanted.get(address) != interface
        ]
        moved += [serving.AddAddress(address, interface) for address, interface in missing]
        if moved:
            self.move_all(moved)
        for address, interface in missing:
            self.carry_out(serving.Announce(address, interface))
        for interface in {*wanted.values()}:
            for address in self._addresses.misplaced(interface):
                self.carry_out(serving.AddAddress(address, interface))
        remaining = {address for address, _ in there}
        self._drop({address for _, address in self._failing if address not in wanted})
        for _, address in list(self._failing):
            if address not in remaining:
                self._failing.pop((ACTION_NAMES[serving.RemoveAddress], address), None)


def _addresses(effect: serving.Effect) -> tuple[str, ...]:
    """Return the addresses of an effect."""
    if isinstance(effect, serving.Open | serving.Close):
        return effect.addresses
    return (NO_ADDRESS,) if isinstance(effect, serving.Ticket) else (effect.address,)
