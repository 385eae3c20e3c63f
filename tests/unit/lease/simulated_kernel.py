"""What a daemon asks of one machine's kernel, and what that kernel would let out. It outlives the daemon's process."""

from __future__ import annotations

from gateway_agent.lease.tunnels import PointTunnel, TunnelEffect
from gateway_agent.lease.virtual_ips import serving

QUEUEING = "queueing"
"""Value in place of a MAC: packets wait."""


class Kernel:
    """Times: the machine's clock, nanoseconds. It counts on whatever happens to the process."""

    def __init__(self) -> None:
        self.configured: set[str] = set()
        self.announced: list[tuple[int, str]] = []
        self.tunnels: dict[str, str] = {}
        """MACs by device."""
        self.refuses: set[str] = set()
        """Devices that are absent."""
        self._tickets: dict[int, int] = {}
        self._open: dict[str, int] = {}

    def carry_out(self, effect: serving.Effect, now: int) -> None:
        if isinstance(effect, serving.Ticket):
            self._tickets[effect.number] = now + effect.lifetime_ns
        elif isinstance(effect, serving.Open):
            if self._tickets.pop(effect.number, 0) > now:
                self._open.update(dict.fromkeys(effect.addresses, now + effect.lifetime_ns))
        elif isinstance(effect, serving.Close):
            for address in effect.addresses:
                self._open.pop(address, None)
        elif isinstance(effect, serving.AddAddress):
            self.configured.add(effect.address)
        elif isinstance(effect, serving.RemoveAddress):
            self.configured.discard(effect.address)
        elif address := effect.address:
            self.announced.append((now, address))

    def lead(self, effect: TunnelEffect) -> bool:
        """Open the fence. Return False if the kernel refuses."""
        if effect.device in self.refuses:
            return False
        self.tunnels[effect.device] = effect.mac if isinstance(effect, PointTunnel) else QUEUEING
        return True

    def close_all(self) -> None:
        """Close all fences, as a daemon does at its start."""
        self._tickets.clear()
        self._open.clear()
        self.configured.clear()

    def lets_out(self, address: str, now: int) -> bool:
        """Whether a packet with this source address leaves."""
        return self._open.get(address, 0) > now
