"""Probes of upstream addresses, one for each egress interface in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from .ports import Probe


class UpstreamProbes:
    """``make``: see :attr:`gateway_agent.agent.ports.Ports.probe`; None: the configuration has no upstream address."""

    def __init__(self, make: Callable[[str, Callable[[], None]], Probe] | None) -> None:
        self._make = make
        self._running: dict[str, tuple[Probe, asyncio.Task[None]]] = {}

    def silent(self, interface: str) -> tuple[str, ...]:
        """Return the upstream addresses that do not answer by this interface."""
        running = self._running.get(interface)
        return running[0].silent if running else ()

    def follow(self, interfaces: Collection[str], changed: Callable[[], None]) -> None:
        """Probe by these interfaces and no others. ``changed``: called if an address falls silent or answers again."""
        wanted = set(interfaces) if self._make else set()
        for interface in self._running.keys() - wanted:
            self._running.pop(interface)[1].cancel()
        for interface in wanted - self._running.keys():
            assert self._make is not None
            probe = self._make(interface, changed)
            self._running[interface] = probe, asyncio.create_task(probe.run())
