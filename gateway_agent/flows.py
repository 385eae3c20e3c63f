"""Connections out of the tunnels that the kernel must not judge by what it last saw of them.

A connection keeps the source address of its first packet. When its gateway shows another one, or its pod is led to
another one, what follows is dropped by the last guard: for ever, where the pod goes on sending from the same port. So
the kernel is made to forget it, and the next packet opens it anew.

A TCP connection that goes on behind another master may come back, far ahead of the sequence numbers that were seen of
it here: then the kernel would take none of its packets.
"""

from __future__ import annotations

import asyncio
import logging

from cni.kernel.errors import KernelError
from cni.plan import Plan

from .core import ruleset
from .shell.kernel import Kernel

log = logging.getLogger(__name__)
REST = 30.0
"""Seconds after which a node that has handed over forgets. Longer than the rules watch who was picked up."""


class Flows:
    """Those of one node, in its gateway role."""

    def __init__(self, kernel: Kernel, mask: int) -> None:
        self._kernel = kernel
        self._mask = mask
        self._found = asyncio.Event()
        self._left: dict[str, float] = {}

    def watch(self) -> None:
        """From now on the kernel tells of each that is stale. Belongs in the event loop's thread."""
        try:
            self._kernel.watch_stale(self._found.set)
        except OSError as error:
            log.warning("stale connections are looked for in each round only: packet log: %s", error)

    async def run(self) -> None:
        """Forgets what the rules have found, at once. Ends with its task."""
        while True:
            await self._found.wait()
            self._found.clear()
            try:
                await self._kernel.forget_stale(self._mask)
            except KernelError as error:
                log.error("%s", error)

    async def follow(self, before: Plan | None, plan: Plan) -> None:
        """After each change of the plan, which is in force now. Raises KernelError."""
        self._found.set()
        if before is None:
            return
        # Before one of their ports is used again: a connection of a single packet would be lost with it.
        # What others may serve now stays: with ``connectionSync`` they would forget it too.
        kept = ruleset.sources(plan) | {egress.address for egress in plan.egress_ips}
        for address in sorted(ruleset.sources(before) - kept):
            await self._kernel.forget_shown(address, self._mask)
        for address in sorted(ruleset.served(before) - ruleset.served(plan)):
            await self._kernel.loosen(address, self._mask)
            self._left[address] = asyncio.get_running_loop().time()

    async def tidy(self, plan: Plan) -> None:
        """In each round: forgets what this node has let go of long enough ago. Raises KernelError.

        What others do not tell it is out of date when the address comes back. With ``connectionSync`` they do, and
        would forget it too.
        """
        now = asyncio.get_running_loop().time()
        told = {egress.address for egress in plan.egress_ips if egress.sync}
        for address in [address for address, at in self._left.items() if now >= at + REST]:
            del self._left[address]
            if address not in told | ruleset.served(plan):
                await self._kernel.forget_shown(address, self._mask)
