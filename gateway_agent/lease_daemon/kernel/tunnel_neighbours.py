"""Set the neighbour entries of this node's tunnels, as :mod:`gateway_agent.lease.tunnels` decides."""

from __future__ import annotations

from cni.kernel.errors import KernelError
from cni.kernel.netlink.neighbours import Neighbours

from ...lease.tunnels import PointTunnel, TunnelEffect


class TunnelNeighbours:
    """The neighbour entries. ``problems``: refusals of the kernel, by device."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self._neighbours = Neighbours()

    def carry_out(self, effect: TunnelEffect) -> bool:
        """Carry out an effect. Return False if the kernel has refused it."""
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
