"""Follow the objects of the store, and read them at once for a pod that starts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ...manifests.model import Inventory
from ...manifests.sharing import sharing
from ...manifests.store import Store
from ..plan_file import PlanFile
from ..state import NodeState

log = logging.getLogger(__name__)


class KnownObjects:
    """The only writer of ``NodeState.inventory``. ``changed`` is called after each change of the inventory."""

    def __init__(
        self, store: Store, state: NodeState, plan_file: PlanFile, changed: Callable[[], None]
    ) -> None:
        self._store = store
        self._state = state
        self._plan_file = plan_file
        self._changed = changed
        self._reads: set[asyncio.Task[None]] = set()

    @property
    def reading(self) -> bool:
        """Return True while the store is read for a pod that starts."""
        return bool(self._reads)

    async def follow(self) -> None:
        """Follow each inventory of the store until cancelled."""
        async for inventory in self._store.inventories():
            self._take(inventory)

    async def refresh(self, namespace: str, name: str, uid: str) -> None:
        """Read the store now: a pod may start before the watch reports the pod, or the edit that selects the pod.

        The read continues if the caller is cancelled: a thread of the store may be running it, and cannot be stopped.
        Raises :class:`gateway_agent.manifests.store.NotKnown` and OSError.
        """
        read = asyncio.create_task(self._read(namespace, name, uid))
        self._reads.add(read)
        read.add_done_callback(self._reads.discard)
        await asyncio.shield(read)

    async def _read(self, namespace: str, name: str, uid: str) -> None:
        inventory = await self._store.for_pod(namespace, name, uid)
        if inventory is not None:
            self._take(inventory)

    def _take(self, inventory: Inventory) -> None:
        before = self._state.inventory
        if inventory == before:
            return
        for problem in inventory.problems:
            if before is None or problem not in before.problems:
                log.warning("%s", problem)
        self._mark_plan_outdated()
        self._state.inventory = sharing(inventory, before) if before else inventory
        self._changed()

    def _mark_plan_outdated(self) -> None:
        """Mark ``plan.json`` before an edit counts: this process may end before the edit is in the plan."""
        try:
            self._plan_file.mark_outdated()
        except OSError as error:
            # If this error lasts, the next round fails when it writes the plan, and status reports that.
            log.error("%s", error)
