"""Deletes connections out of the tunnels that the kernel must not judge by what it last saw of them.

A connection keeps the source address of its first packet. When its gateway shows another one, or its pod is led to
another one, what follows is dropped by the last guard: for ever, if the pod goes on sending from the same port. So
the connection is deleted, and the next packet opens it anew.

A TCP connection that goes on behind another master may come back, far ahead of the sequence numbers that were seen of
it here: then the kernel would take none of its packets.
"""

from __future__ import annotations

import asyncio
import logging

from cni.kernel.errors import KernelError
from cni.plan import Plan

from ...gateway_rules import snat
from ..ports import Kernel

log = logging.getLogger(__name__)
DELETE_DELAY_S = 30.0
"""Seconds after which a node that has handed over forgets. Longer than the rules watch who was picked up."""


class ConntrackCollector:
    """The connections of one node in its gateway role."""

    def __init__(self, kernel: Kernel, mask: int) -> None:
        self._kernel = kernel
        self._mask = mask
        self._found = asyncio.Event()
        self._lost: set[str] = set()
        self._left: dict[str, float] = {}

    def watch(self) -> None:
        """Begin to watch for packets of stale connections. Call it in the event loop's thread."""
        try:
            self._kernel.watch_stale(self._found.set)
        except OSError as error:
            log.warning("stale connections are looked for in each round only: packet log: %s", error)

    async def run(self) -> None:
        """Delete what the rules have found, at once. Ends with its task."""
        while True:
            await self._found.wait()
            self._found.clear()
            try:
                await self._kernel.forget_stale(self._mask)
            except KernelError as error:
                log.error("%s", error)

    def follow(self, before: Plan | None, plan: Plan) -> None:
        """Note what :meth:`collect` has to do after a change of the plan, which the kernel follows already."""
        self._found.set()
        if before is not None:
            self._lost |= snat.served(before) - snat.served(plan)

    async def collect(self, plan: Plan) -> None:
        """Prepare connections of virtual addresses that this node has handed over, or delete them, in each round.

        The connections are deleted :data:`DELETE_DELAY_S` later: without ``connectionSync`` they are out of date when
        the address comes back; with it the other nodes would delete them, too. Raises KernelError; the next round
        continues with the connections that are left.
        """
        now = asyncio.get_running_loop().time()
        self._lost -= snat.served(plan)
        for address in sorted(self._lost):
            await self._kernel.set_tcp_liberal(address, self._mask)
            self._lost.discard(address)
            self._left[address] = now
        synchronized = {egress.address for egress in plan.egress_ips if egress.sync}
        for address in [address for address, at in self._left.items() if now >= at + DELETE_DELAY_S]:
            if address not in synchronized | snat.served(plan):
                await self._kernel.flush_by_source(address, self._mask)
            del self._left[address]
