"""The node's interfaces as one object, for the agent."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..policy.readiness import InterfaceFacts
from . import interfaces


class NodeInterfaces:
    """See :mod:`gateway_agent.adapters.interfaces`. Every method may be called in any thread."""

    def read(
        self, virtual: Collection[str], without: Collection[str], nodes: Iterable[str]
    ) -> dict[str, InterfaceFacts]:
        """Return the facts of each interface; see :func:`gateway_agent.adapters.interfaces.read`."""
        return interfaces.read(virtual, without, nodes)

    def leaving(self, destinations: Iterable[str]) -> frozenset[str]:
        """Return the interfaces by which packets to these addresses leave."""
        return interfaces.leaving(destinations)

    def is_local(self, address: str) -> bool:
        """Return True if an interface of this machine has the address."""
        return interfaces.is_local(address)
