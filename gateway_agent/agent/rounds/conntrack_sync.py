"""Sync the connection tables of the nodes that can be master, if a gateway has ``connectionSync``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from cni.kernel import ids
from cni.plan import Plan

from ...policy.egress_node import sync_groups
from ..ports import ConnectionSync

NAME = "sync"
"""Name of the one conntrackd that a node needs."""
SETTLE_TIME_S = 3.0
"""Seconds for which the configuration must stay the same: many times the duration of a handover."""


class ConntrackSync:
    """The sync of one node. ``sync`` runs the processes; ``changed`` requests another round."""

    def __init__(self, run_dir: Path, sync: ConnectionSync, changed: Callable[[], None]) -> None:
        self._run_dir = run_dir
        self._sync = sync
        self._changed = changed
        self._refused = ""
        self._wanted: dict[str, str] = {}
        self._since = 0.0
        self._index = 0
        self._stopped = False

    def follow(self, plan: Plan) -> None:
        """Start, end or reconfigure conntrackd as the plan says.

        With another set of nodes conntrackd must restart, but not while these nodes hand over. With another device it
        restarts at once: it would receive nothing by the old one.
        """
        if self._stopped:
            return
        shared = sync_groups.syncing(plan)
        self._refused = ""
        try:
            paths = sync_groups.files(str(self._run_dir), NAME)
            index = self._sync.interface_index(ids.SYNC_DEVICE) if shared else 0
            texts = {NAME: sync_groups.configuration(shared, paths, index=index)} if shared else {}
            self._sync.serve(sync_groups.serves(plan))
            deaf, self._index = index != self._index, index
            if self._rested(texts) or deaf:
                self._sync.set(texts)
        except ValueError as error:
            self._refused = str(error)

    def _rested(self, texts: dict[str, str]) -> bool:
        """Return True if the configuration has been the same for a while, or if no process runs yet."""
        loop = asyncio.get_running_loop()
        if texts != self._wanted:
            self._wanted, self._since = texts, loop.time()
            loop.call_later(SETTLE_TIME_S, self._changed)
        return not self._sync.state() or loop.time() >= self._since + SETTLE_TIME_S

    def behind(self) -> str:
        """Return why this node does not know the others' connections yet; empty if it does, or can sync nothing."""
        return sync_groups.ready({name: state for name, state in self._sync.state().items() if state.running})

    def troubles(self) -> list[str]:
        """Return the errors that prevent any sync."""
        errors = (state.error for state in self._sync.state().values() if not state.running)
        return [text for text in (self._refused, *errors) if text]

    async def stop(self) -> None:
        """End conntrackd; a round in progress does not start it again."""
        self._stopped = True
        await self._sync.stop()
