"""Containers that no cluster knows: their labels, which only their engine has, and those that run beside the chain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from cni.attachments import Attachment

from ..container_engines import documents
from ..container_engines.documents import Beside, Listing
from ..container_engines.stores import EngineError, Engines
from ..manifests.model import Inventory, Problem
from ..policy import planner
from .pods import Pods, identity, uncertain

log = logging.getLogger(__name__)
PERIOD = 5.0
"""Seconds between two looks at the engines. A look at one that has not changed costs three calls of ``stat``."""
MOST = 8
"""Pods with unknown labels whose engine is asked in one look: containerd's client takes tens of milliseconds."""


class Containers:
    """For the files store. A cluster knows the pods of each node."""

    def __init__(self, engines: Engines, pods: Pods, inventory: Callable[[], Inventory | None]) -> None:
        self.beside: tuple[Beside, ...] = ()
        """Containers that a policy selects and nothing steers."""
        self._unreadable: tuple[Problem, ...] = ()
        self._engines = engines
        self._pods = pods
        self._inventory = inventory
        self._turn = 0
        self._seen: tuple[Listing | None, Inventory, frozenset[str]] | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Containers that nothing steers, and an engine whose store cannot be read."""
        return *self._unreadable, *(found.problem for found in self.beside)

    async def labelled(self, record: Attachment) -> Attachment:
        """Return the record with the labels that the engine has, if neither the call nor the store gives any.

        Raises OSError if the disk does not take the record.
        """
        inventory = self._inventory()
        if inventory is None or inventory.knows_pods or identity(record, inventory).labels is not None:
            return record
        try:
            found = await self._engines.find(record.container_id)
        except EngineError as error:
            self._pods.unknown[record.key] = str(error)
            return record
        if found is None:
            self._pods.unknown[record.key] = "no container engine of this node has the container"
            return record
        self._pods.unknown.pop(record.key, None)
        record = replace(record, labels=found.labels, name=record.name or found.name)
        if record.key in self._pods.records:
            # Else the runtime has taken it away meanwhile: its record must not come back.
            self._pods.put(record)
        return record

    async def run(self, learned: Callable[[], None]) -> None:
        """Look again and again; call ``learned`` if labels have become known. Ends with its task."""
        while True:
            await asyncio.sleep(PERIOD)
            inventory = self._inventory()
            if inventory is None or inventory.knows_pods:
                continue
            try:
                if await self._learn(inventory):
                    learned()
                await self._look(inventory)
            except OSError as error:
                log.error("%s", error)
            except Exception as error:
                # Perhaps because of one object, or of what an engine's store says: the agent serves all others.
                words = f"they cannot be looked at: {type(error).__name__}: {error}"
                failed = Problem("containers", "", words, "see the log of the agent")
                if failed not in self._unreadable:
                    log.exception("containers cannot be looked at")
                self._unreadable = (failed,)

    async def _learn(self, inventory: Inventory) -> bool:
        """Ask for the labels of a few pods that a policy may select. Return True if some are known now."""
        policies = planner.policies(inventory)
        pods = ((record, identity(record, inventory)) for record in self._pods.records.values())
        # Labels first: all policies are looked at for each of the others.
        wanted = [
            record for record, pod in pods if pod.labels is None and uncertain(policies, inventory, pod)
        ]
        # In turn: those that no engine has must not keep others waiting.
        self._turn = self._turn % len(wanted) if wanted else 0
        asked = [*wanted[self._turn :], *wanted[: self._turn]][:MOST]
        self._turn += MOST
        return any([(await self.labelled(record)).labels is not None for record in asked])

    async def _look(self, inventory: Inventory) -> None:
        """Look for containers that run beside the chain."""
        try:
            listing = await self._engines.listing()
        except EngineError as error:
            hint = "engines in the agent's configuration says where the stores of container engines are"
            self._unreadable = (
                Problem("podman", "", f"{error}: containers that start have unknown labels", hint),
            )
            return
        broken = listing.broken[:MOST] if listing else ()
        self._unreadable = tuple(
            Problem("podman", "", f"{words} (its labels are unknown)") for words in broken
        )
        attached = frozenset(record.container_id for record in self._pods.records.values())
        if self._seen is not None:
            before, known, then = self._seen
            if before is listing and known is inventory and then == attached:
                return
        self._seen = listing, inventory, attached
        self.beside = tuple(documents.beside(listing, attached, inventory)) if listing else ()
