"""Delete connections out of the tunnels whose entries in the kernel are out of date.

A connection keeps the source address of its first packet. If its gateway gets another source address, or its pod
another gateway, the last guard drops all further packets: for ever, if the pod keeps sending from the same port. So the
connection is deleted, and the next packet opens it again.

A TCP connection that continues on another master may return with sequence numbers far ahead of those that this node's
kernel saw last: then the kernel would accept none of its packets.
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
"""Seconds after a handover until connections are deleted: longer than the rules watch picked-up connections."""


class ConntrackCollector:
    """The connections of one node in its gateway role."""

    def __init__(self, kernel: Kernel, mask: int) -> None:
        self._kernel = kernel
        self._mask = mask
        self._found = asyncio.Event()
        self._lost: set[str] = set()
        self._left: dict[str, float] = {}

    def watch(self) -> None:
        """Start to watch for packets of stale connections. Call it in the event loop's thread."""
        try:
            self._kernel.watch_stale(self._found.set)
        except OSError as error:
            log.warning("stale connections are deleted in each round only: packet log: %s", error)

    async def run(self) -> None:
        """Delete the stale connections at once when the rules find one, until cancelled."""
        while True:
            await self._found.wait()
            self._found.clear()
            try:
                await self._kernel.forget_stale(self._mask)
            except KernelError as error:
                log.error("%s", error)

    def follow(self, before: Plan | None, plan: Plan) -> None:
        """Note the work for :meth:`collect` after a change of the plan, which the kernel follows already."""
        self._found.set()
        if before is not None:
            self._lost |= snat.served(before) - snat.served(plan)

    async def collect(self, plan: Plan) -> None:
        """Set the connections of handed-over virtual addresses liberal, and delete them later. Called in each round.

        Connections are deleted after :data:`DELETE_DELAY_S`, without ``connectionSync`` only: they would be out of date
        when the address returns; with it, the other nodes would delete their copies, too. Raises KernelError; the next
        round continues with the connections that are left.
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
