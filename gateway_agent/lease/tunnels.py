"""The node that each tunnel of this node leads to.

A tunnel's next hop has one neighbour entry: the MAC of the master. While a master hands over, the entry is incomplete:
the kernel queues packets until it has the next master's MAC. The last step of each failover is one effect of this
module.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from cni.kernel import ids

from .ipc import EgressIPSpec, KeeperConfig
from .mastership.masters import MasterTable


class PointTunnel(msgspec.Struct, frozen=True):
    """Give the tunnel's next hop the MAC of the master."""

    device: str
    mac: str
    family: int
    """4 or 6: of the packets that the tunnel carries."""


class QueueTunnel(msgspec.Struct, frozen=True):
    """Make the kernel queue packets that enter the tunnel."""

    device: str
    family: int
    """4 or 6: of the packets that the tunnel carries."""


TunnelEffect = PointTunnel | QueueTunnel


class Tunnels:
    """The tunnels of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._specs: dict[str, EgressIPSpec] = {}
        self._addresses: dict[str, str] = {}
        self._applied: dict[str, TunnelEffect] = {}
        """The last effect for each device."""
        self._changed: set[str] = set()
        """Ids of the egress IPs whose tunnels are to be compared with their masters."""

    def configure(self, config: KeeperConfig) -> None:
        """Apply the devices and the addresses of the nodes. Every effect is returned once more."""
        self._specs = {spec.id: spec for spec in config.egress if spec.device}
        self._addresses = {peer.name: peer.address for peer in config.peers if peer.name != self._me}
        self.renew()

    def renew(self) -> None:
        """Return every effect once more: another program may have changed the kernel."""
        self._applied.clear()
        self._changed = set(self._specs)

    def refused(self, device: str) -> None:
        """Return the effect for ``device`` once more with the next input: the kernel has refused it."""
        self._applied.pop(device, None)
        self._changed |= {spec.id for spec in self._specs.values() if spec.device == device}

    def follow(self, changed: Iterable[str], masters: MasterTable, now: int, effects: list[Any]) -> None:
        """Append an effect for each tunnel that does not lead to the master.

        ``changed``: the ids that may have another master since the last call. A tunnel of an egress IP without a
        master, or with this node as the master, stays as it is.
        """
        self._changed.update(changed)
        for identity in list(self._changed):
            effect = self._effect(identity, masters, now)
            if effect is not None and self._applied.get(effect.device) != effect:
                effects.append(effect)
                self._applied[effect.device] = effect
            self._changed.discard(identity)

    def _effect(self, identity: str, masters: MasterTable, now: int) -> TunnelEffect | None:
        spec, entry = self._specs.get(identity), masters.of(identity)
        address = self._addresses.get(entry.master)
        if spec is None or address is None:
            return None
        family = 6 if ":" in spec.address else 4
        if entry.is_queueing(now):
            return QueueTunnel(spec.device, family)
        return PointTunnel(spec.device, ids.node_mac(address), family)
