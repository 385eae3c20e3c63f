"""The neighbour entries of this node's tunnels, in its kernel: what :mod:`gateway_agent.lease.tunnels` decides."""

from __future__ import annotations

from cni.kernel.errors import KernelError
from cni.kernel.netlink.neighbours import Neighbours

from ...lease.tunnels import PointTunnel, TunnelEffect


class TunnelNeighbours:
    """``problems``: what the kernel has refused, by device."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self._neighbours = Neighbours()

    def carry_out(self, effect: TunnelEffect) -> bool:
        """Return False if the kernel has refused it."""
        try:
            if isinstance(effect, PointTunnel):
                self._neighbours.set_master(effect.device, effect.mac, effect.family)
            else:
                self._neighbours.queue(effect.device, effect.family)
        except (KernelError, OSError) as error:
            self.problems[effect.device] = str(error)
            return False
        self.problems.pop(effect.device, None)
        return True
