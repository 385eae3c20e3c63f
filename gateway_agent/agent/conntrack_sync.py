"""The connection tables of the nodes that can be master, kept alike where a gateway has ``connectionSync``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from cni.kernel import ids
from cni.plan import Plan

from ..adapters.conntrackd import ConnectionSync, interface_index
from ..policy import sync_groups

NAME = "sync"
"""Of the one conntrackd that a node needs."""
REST_S = 3.0
"""Seconds: many times what a handover takes."""


class ConntrackSync:
    """``changed`` is called with each news."""

    def __init__(self, run_dir: Path, changed: Callable[[], None]) -> None:
        self._run_dir = run_dir
        self._sync = ConnectionSync(run_dir, changed)
        self._changed = changed
        self._refused = ""
        self._wanted: dict[str, str] = {}
        self._since = 0.0
        self._index = 0
        self._stopped = False

    def follow(self, plan: Plan) -> None:
        """Starts, ends or turns round what the plan wants.

        With another set of nodes conntrackd has to start anew: not in the moment in which they hand over. With another
        device too, but then at once: it hears nothing more.
        """
        if self._stopped:
            return
        shared = sync_groups.syncing(plan)
        self._refused = ""
        try:
            paths = sync_groups.files(str(self._run_dir), NAME)
            index = interface_index(ids.SYNC_DEVICE) if shared else 0
            texts = {NAME: sync_groups.configuration(shared, paths, index=index)} if shared else {}
            self._sync.serve(sync_groups.serves(plan))
            deaf, self._index = index != self._index, index
            if self._rested(texts) or deaf:
                self._sync.set(texts)
        except ValueError as error:
            self._refused = str(error)

    def _rested(self, texts: dict[str, str]) -> bool:
        """Whether this has been wanted for a while; what has not run yet need not wait."""
        loop = asyncio.get_running_loop()
        if texts != self._wanted:
            self._wanted, self._since = texts, loop.time()
            loop.call_later(REST_S, self._changed)
        return not self._sync.state() or loop.time() >= self._since + REST_S

    def behind(self) -> str:
        """Why this node does not know the others' connections yet. Where nothing can be synced, it serves without."""
        return sync_groups.ready({name: state for name, state in self._sync.state().items() if state.running})

    def troubles(self) -> list[str]:
        """What keeps the tables from being synced at all."""
        errors = (state.error for state in self._sync.state().values() if not state.running)
        return [text for text in (self._refused, *errors) if text]

    async def stop(self) -> None:
        """Ends conntrackd; rounds that are still on their way start none again."""
        self._stopped = True
        await self._sync.stop()
