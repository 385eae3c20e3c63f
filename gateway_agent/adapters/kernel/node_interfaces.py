"""Provide the node's interfaces to the agent as one object."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from ...policy.egress_node.exit_paths import Found, Lookup
from ...policy.egress_node.readiness import InterfaceFacts
from . import interfaces, route_lookup, routing_tables
from .borrowed_settings import BorrowedSettings


class NodeInterfaces:
    """The interfaces; see :mod:`gateway_agent.adapters.kernel.interfaces`. Any thread may call any method."""

    def __init__(self, run_dir: Path) -> None:
        """``run_dir``: has the record of changed settings."""
        self._borrowed = BorrowedSettings(run_dir)

    def read(
        self, virtual: Collection[str], without: Collection[str], nodes: Iterable[str]
    ) -> dict[str, InterfaceFacts]:
        """Return the facts of each interface; see :func:`gateway_agent.adapters.kernel.interfaces.read`."""
        return interfaces.read(virtual, without, nodes)

    def leaving(self, destinations: Iterable[str]) -> frozenset[str]:
        """Return the interfaces by which packets to these addresses leave."""
        return interfaces.leaving(destinations)

    def is_local(self, address: str) -> bool:
        """Return True if an interface of this machine has the address."""
        return interfaces.is_local(address)

    def look_up(self, lookups: Iterable[Lookup]) -> dict[Lookup, Found]:
        """Return how the kernel would route these packets."""
        return route_lookup.ask(lookups)

    def table_names(self) -> dict[str, int]:
        """Return the numbers of the node's routing tables by name."""
        return routing_tables.names()

    def check_by_mark(self, names: Collection[str]) -> bool:
        """Turn ``src_valid_mark`` on for these interfaces. Return True if it was off anywhere. Raises OSError."""
        return self._borrowed.follow(names)
