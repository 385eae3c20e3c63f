"""Probe next hops on a link by ARP or neighbour discovery.

The frames claim no address (RFC 5227, section 2.1.1; RFC 4862, section 5.4.2): they change no neighbour cache, and a
node without an address on the link may send them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from ...lease.virtual_ips import arp
from .probing import Probe

ASK_INTERVAL_S, ASK_MISSES = 0.3, 3
"""Time for which :func:`silent` waits for an answer, and the number of its probes."""
ETH_P_ALL = 3
MAX_FRAME_BYTES = 2048


class NeighbourProbe(Probe):
    """A probe by ARP and neighbour discovery."""

    async def _round(self, answered: set[str], deadline: float) -> None:
        loop = asyncio.get_running_loop()
        wanted = {arp.canonical(address): address for address in self._missed}
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.setblocking(False)
            raw.bind((self.interface, self._protocol()))
            mac = raw.getsockname()[4].hex(":")
            for address in self._missed:
                with contextlib.suppress(OSError):
                    raw.send(arp.probe(address, mac))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    while answered != set(self._missed):
                        frame = await loop.sock_recv(raw, MAX_FRAME_BYTES)
                        claimed = arp.claimed_address(frame)
                        if claimed and claimed[0] in wanted:
                            answered.add(wanted[claimed[0]])

    def _protocol(self) -> int:
        """Return the EtherType of the frames with answers."""
        families = {":" in address for address in self._missed}
        kinds = {True: arp.ETH_P_IPV6, False: arp.ETH_P_ARP}
        return kinds[families.pop()] if len(families) == 1 else ETH_P_ALL


def silent(interface: str, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Return the addresses that do not answer on the link of an interface. Blocks until all have answered, or 1 s."""
    probe = NeighbourProbe(interface, addresses, ASK_INTERVAL_S, ASK_MISSES, lambda: None)
    return asyncio.run(probe.settle())
