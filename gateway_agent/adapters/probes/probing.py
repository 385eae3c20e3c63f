"""Probe addresses periodically. The module of each kind of probe sends the packets."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable


class Probe(ABC):
    """A periodic probe.

    An address is *silent* after ``misses`` rounds, ``interval`` seconds apart, without an answer.
    """

    def __init__(
        self,
        interface: str,
        addresses: tuple[str, ...],
        interval: float,
        misses: int,
        changed: Callable[[], None],
        mark: int = 0,
    ) -> None:
        """Probe ``addresses``, and call ``changed`` whenever one of them falls silent or answers again.

        ``mark``: mark of the probe's packets if they are routed, as the packets of pods are; 0: none.
        """
        self.interface = interface
        self._missed = dict.fromkeys(addresses, 0)
        self._interval = interval
        self._misses = misses
        self._changed = changed
        self._mark = mark

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the probed addresses."""
        return tuple(self._missed)

    @property
    def silent(self) -> tuple[str, ...]:
        """Return the addresses that do not answer."""
        return tuple(address for address, missed in self._missed.items() if missed >= self._misses)

    async def run(self) -> None:
        """Probe until cancelled. A missing interface counts as a miss."""
        loop = asyncio.get_running_loop()
        while True:
            before = self.silent
            deadline = loop.time() + self._interval
            await self._try(deadline)
            if self.silent != before:
                self._changed()
            await asyncio.sleep(max(0.0, deadline - loop.time()))

    async def settle(self) -> tuple[str, ...]:
        """Probe until all addresses have answered or some are silent; return the silent ones."""
        for _ in range(self._misses):
            await self._try(asyncio.get_running_loop().time() + self._interval)
            if not any(self._missed.values()):
                break
        return self.silent

    async def _try(self, deadline: float) -> None:
        """Probe each address once, and count those that do not answer before ``deadline``, a time of the loop."""
        answered: set[str] = set()
        with contextlib.suppress(OSError):
            await self._round(answered, deadline)
        for address in self._missed:
            self._missed[address] = 0 if address in answered else self._missed[address] + 1

    @abstractmethod
    async def _round(self, answered: set[str], deadline: float) -> None:
        """Probe each address once, and add those that answer before ``deadline``, a time of the loop.

        Raises OSError.
        """
