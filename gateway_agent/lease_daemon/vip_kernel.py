"""The virtual addresses of one node, in its kernel: what :mod:`gateway_agent.lease.virtual_ips.serving` decides."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterable, Mapping

from cni.kernel.errors import KernelError

from ..lease.virtual_ips import serving
from .arp_socket import Announcer
from .vip_addresses import Addresses
from .vip_fence import Fence


class VirtualAddresses:
    """Fence, addresses and announcements. ``problems``: what the kernel has refused, by what was wanted."""

    def __init__(self, selector: selectors.BaseSelector, claimed: Callable[[str, str, str], None]) -> None:
        """Takes away what an earlier process has left: its leases are not this one's.

        ``claimed(address, mac, interface)`` is told of other machines that have an address.
        """
        self.problems: dict[str, str] = {}
        self._fence = Fence()
        self._addresses = Addresses()
        self._announcer = Announcer()
        self._announcer.listen(selector, claimed)
        self._fence.close_all()
        for address, interface in self._addresses.ours():
            self._addresses.remove(address, interface)

    def watch(self, targets: Iterable[tuple[str, str]]) -> None:
        """The (address, interface) to listen for from now on."""
        self._announcer.watch(targets)

    def next_wake(self) -> int:
        """Return when :meth:`resume` is due."""
        return self._announcer.next_wake()

    def resume(self, now: int) -> None:
        """Receive again what a flood has muted. Raises OSError."""
        self._announcer.resume(now)

    def carry_out(self, effect: serving.Effect) -> None:
        """Raises :class:`KernelError` only where the fence cannot be closed: nothing may be sent after that."""
        if isinstance(effect, serving.Close):
            self._fence.close(effect.addresses)
            return
        try:
            self._try(effect)
        except (KernelError, OSError) as error:
            self.problems[type(effect).__name__] = str(error)
        else:
            self.problems.pop(type(effect).__name__, None)

    def _try(self, effect: serving.Effect) -> None:
        if isinstance(effect, serving.Ticket):
            self._fence.ticket(effect.number, effect.lifetime_ns)
        elif isinstance(effect, serving.Open):
            self._fence.open(effect.number, effect.addresses, effect.lifetime_ns)
        elif isinstance(effect, serving.AddAddress):
            self._addresses.add(effect.address, effect.interface)
            self._announcer.answer(effect.address, effect.interface)
        elif isinstance(effect, serving.RemoveAddress):
            self._announcer.silence(effect.address, effect.interface)
            self._addresses.remove(effect.address, effect.interface)
        elif isinstance(effect, serving.Probe):
            self._announcer.probe(effect.address, effect.interface)
        elif isinstance(effect, serving.Announce):
            self._announcer.announce(effect.address, effect.interface)

    def retry_failed(self, wanted: Mapping[str, str]) -> None:
        """Puts right what others have done. ``wanted``: interfaces by address."""
        there = self._addresses.ours()
        for address, interface in there:
            if wanted.get(address) != interface:
                self.carry_out(serving.RemoveAddress(address, interface))
        for address, interface in wanted.items():
            if (address, interface) not in there:
                self.carry_out(serving.AddAddress(address, interface))
                self.carry_out(serving.Announce(address, interface))
        for interface in {*wanted.values()}:
            for address in self._addresses.misplaced(interface):
                self.carry_out(serving.AddAddress(address, interface))
