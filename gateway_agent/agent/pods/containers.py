"""Find the labels of containers in the stores of their engines, and containers that run without the plugin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ...container_engines import documents
from ...container_engines.documents import Beside, EngineError, Listing
from ...manifests.model import Inventory, Problem
from ...policy import planner
from ..ports import Engines
from ..state import NodeState
from .pod_policies import identity, uncertain
from .records import Key, Pods

log = logging.getLogger(__name__)
PERIOD_S = 5.0
"""Seconds between two reads of the engines. For an unchanged engine a read costs three calls of ``stat``."""
MAX_ASKED_PODS = 8
"""Pods with unknown labels for which the engine is asked in one pass: containerd's client takes tens of milliseconds.
"""


class Containers:
    """The containers of this node, for the files store: a cluster's store has the pods of each node."""

    def __init__(self, engines: Engines, pods: Pods, state: NodeState) -> None:
        self.beside: tuple[Beside, ...] = ()
        """Problems of containers that a policy selects and that no tag steers."""
        self._unreadable: tuple[Problem, ...] = ()
        self._engines = engines
        self._pods = pods
        self._state = state
        self._offset = 0
        self._seen: tuple[Listing | None, Inventory, frozenset[str]] | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return problems of containers that no tag steers, and of an engine whose store cannot be read."""
        return *self._unreadable, *(found.problem for found in self.beside)

    async def find_labels(self, key: Key) -> bool:
        """Ask the engine for a pod's labels if neither the call nor the store has any. Return True if it has some.

        Raises OSError if the record cannot be written.
        """
        pod = self._pods.get(key)
        inventory = self._state.inventory
        if pod is None or inventory is None or inventory.knows_pods:
            return False
        if identity(pod.record, inventory).labels is not None:
            return False
        try:
            found = await self._engines.find(pod.record.container_id)
            why = "" if found else "no container engine of this node has the container"
        except EngineError as error:
            found, why = None, str(error)
        if self._pods.get(key) is not pod:
            # The runtime has removed it meanwhile.
            return False
        if found is None:
            self._pods.unknown[key] = why
            return False
        self._pods.unknown.pop(key, None)
        self._pods.set_labels(key, found.labels, found.name)
        return True

    async def run(self, learned: Callable[[], None]) -> None:
        """Read the engines periodically until cancelled; call ``learned`` if labels have become known."""
        while True:
            await asyncio.sleep(PERIOD_S)
            inventory = self._state.inventory
            if inventory is None or inventory.knows_pods:
                continue
            try:
                if await self._learn(inventory):
                    learned()
                await self._inspect(inventory)
            except OSError as error:
                log.error("%s", error)
            except Exception as error:
                # One object, or the content of an engine's store, may be the cause: the agent serves all others.
                message = f"they cannot be read: {type(error).__name__}: {error}"
                failed = Problem("containers", "", message, "see the log of the agent")
                if failed not in self._unreadable:
                    log.exception("containers cannot be read")
                self._unreadable = (failed,)

    async def _learn(self, inventory: Inventory) -> bool:
        """Ask for the labels of a few pods that a policy may select. Return True if some are known now."""
        policies = planner.policies(inventory)
        pods = ((record, identity(record, inventory)) for record in self._pods.records.values())
        # Labels first: the other containers are compared with all policies.
        wanted = [
            record for record, pod in pods if pod.labels is None and uncertain(policies, inventory, pod)
        ]
        # In turns: pods that no engine has must not delay others.
        self._offset = self._offset % len(wanted) if wanted else 0
        asked = [*wanted[self._offset :], *wanted[: self._offset]][:MAX_ASKED_PODS]
        self._offset += MAX_ASKED_PODS
        return any([await self.find_labels(record.key) for record in asked])

    async def _inspect(self, inventory: Inventory) -> None:
        """Find containers that run without the plugin."""
        try:
            listing = await self._engines.listing()
        except EngineError as error:
            hint = "engines in the agent's configuration says where the stores of container engines are"
            self._unreadable = (
                Problem("podman", "", f"{error}: containers that start have unknown labels", hint),
            )
            return
        broken = listing.broken[:MAX_ASKED_PODS] if listing else ()
        self._unreadable = tuple(
            Problem("podman", "", f"{message} (its labels are unknown)") for message in broken
        )
        attached = frozenset(record.container_id for record in self._pods.records.values())
        if self._seen is not None:
            before, known, then = self._seen
            if before is listing and known is inventory and then == attached:
                return
        self._seen = listing, inventory, attached
        self.beside = tuple(documents.beside(listing, attached, inventory)) if listing else ()
