"""Run rounds for pods that start, which only tag, by the plan in the kernel.

These rounds run beside the rounds of the whole node, so an ADD does not wait for edits that do not concern its pod. All
requests that arrive during a round are done by the next one, however many pods they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from ..pods.records import Key
from ..pods.tagging import Tagging
from ..state import NodeState
from .planning import Planning

log = logging.getLogger(__name__)


class PodRounds:
    """The rounds. ``moved`` is called after each round: pods may use other egress IPs than before."""

    def __init__(
        self, state: NodeState, planning: Planning, tagging: Tagging, moved: Callable[[], None]
    ) -> None:
        self._state = state
        self._planning = planning
        self._tagging = tagging
        self._moved = moved
        self._requested = asyncio.Event()
        self._pods: dict[Key, asyncio.Future[Exception | None]] = {}

    async def tag(self, key: Key) -> None:
        """Wait until a round that began after this call has tagged the pod.

        Raises the KernelError or OSError that prevented the tag.
        """
        done = self._pods.setdefault(key, asyncio.get_running_loop().create_future())
        self._requested.set()
        # Several calls may wait for one pod: the end of one must not cancel it for the others.
        if (failed := await asyncio.shield(done)) is not None:
            raise failed

    async def run(self) -> None:
        """Run a round after each request, until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            pods, self._pods = self._pods, {}
            failed: dict[Key, Exception] = {}
            try:
                failed = await self._round(pods.keys())
                self._moved()
            except Exception as error:
                log.exception("pods that start cannot be tagged")
                failed = dict.fromkeys(pods, error)
            for key, done in pods.items():
                done.set_result(failed.get(key))

    async def _round(self, keys: Collection[Key]) -> dict[Key, Exception]:
        plan, inventory = self._state.applied, self._state.inventory
        if plan is None or inventory is None:
            return {}
        return await self._tagging.retag(keys, plan, self._planning.usable(inventory))
