"""Maintain the inventory of the Kubernetes store with one watch for each kind of objects.

Requests are few: whole lists are read only at the start and after the server has lost its history. The objects are also
stored in the run directory, so that an agent that starts while the API is away continues with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

from ..manifests.model import Fault, Inventory, Problem
from ..manifests.store import NotKnown
from . import last_known
from .client import OPENED, Api, ApiError
from .empty_policies import PodQuery
from .objects import VOTERS, InventoryBuilder, Names, Resource, missing, pod_uid, prune
from .reflector import EXPIRED, FORBIDDEN, NOT_FOUND, Key, List, Object, Pause, Reflector, Watch

log = logging.getLogger(__name__)
DEBOUNCE_S = 0.02
"""Seconds from a change to the new inventory, in which more changes may follow."""
FIRST_LISTS_TIMEOUT_S = 3.0
"""Seconds to wait for the first lists before the objects that an earlier agent stored are used."""
POD_QUERY_TIMEOUT_S, CATCH_UP_TIMEOUT_S = 2.0, 1.0
"""Seconds that the API, and then the watch, may take while a pod start waits."""
SHARE_S = 0.2
"""Seconds that a question waits for the answer to the one before. A question without an answer delays no other."""


class ClusterStore:
    """The store that follows a cluster's objects.

    ``watched``: see :func:`.objects.resources`. ``path``: file for the last known objects; created if missing.
    """

    def __init__(self, api: Api, watched: Iterable[Resource], path: Path) -> None:
        self._api = api
        self._resources = {resource.kind: resource for resource in watched}
        self._path = path
        kept = last_known.read(path)
        self._reflectors = {kind: Reflector(kept.get(kind)) for kind in self._resources}
        self._kept = bool(kept)
        self._sent: asyncio.Task[Names] | None = None
        self._unsent: asyncio.Task[Names] | None = None
        """Questions for the names of all policies, each of all pod starts that were waiting when it was sent."""
        self._asked: dict[Key, Object] = {}
        """Pods that were read one by one, until the watch reports them."""
        self._picture = InventoryBuilder()
        self._news = asyncio.Condition()
        self._changed = asyncio.Event()
        self._keeping = asyncio.Lock()
        self._on_disk: Inventory | None = None
        self._unkept = ""
        """Reason why the last known objects could not be written; empty if they were."""

    async def inventories(self) -> AsyncIterator[Inventory]:
        """Yield the present inventory, then each changed one. Ends with the task that iterates."""
        tasks = [asyncio.create_task(self._follow(kind)) for kind in self._resources]
        for task in tasks:
            task.add_done_callback(lambda _: self._changed.set())
        try:
            await self._first()
            last = None
            while not any(task.done() for task in tasks):
                self._changed.clear()
                inventory = await self._settled()
                if inventory != last:
                    last = inventory
                    yield inventory
                await self._changed.wait()
                await asyncio.sleep(DEBOUNCE_S)
            # A task that has ended by itself has failed: raise its error.
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._api.close()

    async def for_pod(self, namespace: str, name: str, uid: str) -> Inventory | None:
        """Return an inventory for a starting pod, with everything that was in the store before this call.

        If the API is away, it is the last known inventory; None if there is none yet. Raises :class:`NotKnown` if the
        API has named an object that the watch has not delivered in time.
        """
        if not self._known():
            return None
        names = Names()
        try:
            async with asyncio.timeout(POD_QUERY_TIMEOUT_S):
                names, _ = await asyncio.gather(self._policy_names(), self._ask(namespace, name, uid))
        except TimeoutError:
            log.warning("pod %s/%s: the Kubernetes API does not answer in time", namespace, name)
        except ApiError as error:
            log.warning("pod %s/%s: Kubernetes API: %s", namespace, name, error)
        await self._catch_up("EgressGatewayPolicy", names)
        present = {"metadata": {"name": namespace, "resourceVersion": "0"}}
        await self._catch_up("Namespace", Names((present,)))
        return await self._settled()

    def ours(self) -> Iterator[Object]:
        """Yield the gateways and policies of the API, with their status."""
        for kind in ("EgressGateway", "EgressGatewayPolicy"):
            yield from list(self._reflectors[kind].objects.values())

    def voter_configmap(self) -> Object | None:
        """Return the ConfigMap of the voter set, see :mod:`.voter_configmap`; None if there is none."""
        return next(iter(self._reflectors[VOTERS].objects.values()), None)

    def node(self, name: str) -> Object | None:
        """Return a node of the API; None if it does not exist."""
        return self._reflectors["Node"].objects.get(("", name))

    async def has_pod(self, question: PodQuery) -> bool:
        """Return True if the cluster has such a pod on any node. Raises ApiError."""
        return await self._api.any(
            self._resources["Pod"].path_in(question.namespace), question.label_selector
        )

    def path_of(self, kind: str, name: str) -> str:
        """Return the API path of an object. Its kind must be cluster-scoped or watched in one namespace."""
        resource = self._resources[kind]
        return resource.path_of(resource.namespace, name)

    def identity_of(self, kind: str, name: str) -> tuple[str, str] | None:
        """Return (``apiVersion``, uid) of a cluster-scoped object; None if it does not exist."""
        item = self._reflectors[kind].objects.get(("", name))
        return (item["apiVersion"], str(item["metadata"].get("uid") or "")) if item else None

    # --- watching --------------------------------------------------------------------------------------------------

    async def _follow(self, kind: str) -> None:
        reflector, resource = self._reflectors[kind], self._resources[kind]
        while True:
            step = reflector.step(random.random())
            try:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, List):
                    troubled = bool(reflector.trouble)
                    page = await self._api.page(resource.path, resource.selector, step.token)
                    changed = reflector.page(
                        [prune(resource, i) for i in page.items], page.version, page.token
                    )
                    if kind == "Pod" and not page.token and not reflector.trouble:
                        self._asked.clear()
                    if changed or troubled or reflector.trouble:
                        await self._publish_soon(kind)
                else:
                    await self._watch(resource, reflector, step)
            except ApiError as error:
                if resource.optional and error.status in (NOT_FOUND, FORBIDDEN):
                    reflector.denied(error.status, str(error))
                else:
                    reflector.failed(error.status, str(error), error.retry_after)
                log.warning("Kubernetes API: %s: %s", resource.plural, error)
                await self._publish_soon()
            except Exception as error:
                # No answer of a server may end the agent: the known objects stay in force, and a new list is read.
                log.exception("Kubernetes API: %s: an unusable answer", resource.plural)
                reflector.failed(EXPIRED, f"an unusable answer: {type(error).__name__}: {error}")
                await self._publish_soon()

    async def _watch(self, resource: Resource, reflector: Reflector, step: Watch) -> None:
        loop = asyncio.get_running_loop()
        began, events = loop.time(), 0
        watch = self._api.watch(resource.path, resource.selector, step.version, step.seconds)
        async with contextlib.aclosing(watch):
            async for kind, item in watch:
                if kind == OPENED:
                    if reflector.trouble:
                        reflector.opened()
                        await self._publish_soon()
                    continue
                events += 1
                if reflector.event(kind, item if kind == "ERROR" else prune(resource, item)):
                    await self._publish_soon(resource.kind)
        reflector.ended(loop.time() - began, events)

    async def _publish_soon(self, kind: str = "") -> None:
        """Announce a change to waiting tasks. ``kind``: the kind whose objects have changed; empty: none."""
        if kind == "Pod":
            known = self._reflectors["Pod"].objects
            self._asked = {key: item for key, item in self._asked.items() if missing(known, [item])}
        self._changed.set()
        async with self._news:
            self._news.notify_all()

    # --- what is known ---------------------------------------------------------------------------------------------

    def _known(self) -> bool:
        return self._kept or self._listed()

    def _listed(self) -> bool:
        """Return True if all required lists have been read."""
        return all(reflector.synced or reflector.lacking for reflector in self._reflectors.values())

    async def _first(self) -> None:
        """Wait for the first lists; with objects of an earlier agent at most :data:`FIRST_LISTS_TIMEOUT_S`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FIRST_LISTS_TIMEOUT_S
        async with self._news:
            while not self._listed():
                if self._kept and loop.time() >= deadline:
                    log.warning("the Kubernetes API does not answer: the last known objects are used")
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.05, deadline - loop.time()) if self._kept else None):
                        await self._news.wait()

    def _inventory(self) -> Inventory:
        items = (item for objects in self._objects().values() for item in objects)
        return self._picture.inventory(items, self._troubles())

    def errors(self) -> dict[str, int]:
        """Return the failed requests of each kind, by its plural, since the start."""
        return {self._resources[kind].plural: found.errors for kind, found in self._reflectors.items()}

    def _troubles(self) -> list[Problem]:
        hint = "the last known objects stay in force; changes are not seen"
        found = ((self._resources[kind].plural, r.trouble) for kind, r in self._reflectors.items())
        problems = [
            Problem("Kubernetes API", plural, trouble, hint, Fault.API)
            for plural, trouble in found
            if trouble
        ]
        if self._unkept:
            lost = "the known objects are in force; an agent that starts while the API is away lacks them"
            problems.append(Problem(str(self._path), "", f"cannot be kept: {self._unkept}", lost))
        return problems

    async def _settled(self) -> Inventory:
        """Return the inventory after its objects have been written to disk.

        An agent that dies in the next moment, and starts while the API is away, must not know less than what was in
        force already.
        """
        async with self._keeping:
            inventory = self._inventory()
            if inventory != self._on_disk:
                unkept = await asyncio.to_thread(last_known.write, self._path, self._objects())
                if unkept != self._unkept:
                    self._unkept = unkept
                    inventory = self._inventory()
                self._on_disk = None if unkept else inventory
            return inventory

    def _objects(self) -> dict[str, list[Object]]:
        found = {kind: list(reflector.objects.values()) for kind, reflector in self._reflectors.items()}
        return {**found, "Pod": list(self._pods().values())}

    def _pods(self) -> dict[Key, Object]:
        known = self._reflectors["Pod"].objects
        return {**known, **{key: item for key, item in self._asked.items() if missing(known, [item])}}

    # --- a pod that starts -----------------------------------------------------------------------------------------

    async def _ask(self, namespace: str, name: str, uid: str) -> None:
        """Read a pod from the API unless the watch has delivered it. Raises ApiError."""
        key = namespace, name
        known = self._pods().get(key)
        if known is not None and (not uid or pod_uid(known) == uid):
            return
        resource = self._resources["Pod"]
        found = await self._api.get(resource.path_of(namespace, name))
        if found is not None:
            self._asked[key] = prune(resource, found)

    async def _policy_names(self) -> Names:
        """Return the policies that the API had at some moment since this call. Raises ApiError."""
        if self._unsent is None:
            self._unsent = asyncio.create_task(self._ask_names(self._sent))
            # Takes the error of a question whose callers have all gone.
            self._unsent.add_done_callback(lambda question: question.cancelled() or question.exception())
        return await asyncio.shield(self._unsent)

    async def _ask_names(self, before: asyncio.Task[Names] | None) -> Names:
        if before is not None:
            await asyncio.wait([before], timeout=SHARE_S)
        self._sent, self._unsent = self._unsent, None
        page = await self._api.page(self._resources["EgressGatewayPolicy"].path, names_only=True)
        return Names(tuple(page.items), page.version)

    async def _catch_up(self, kind: str, names: Names) -> None:
        """Wait until the watch has delivered all of this. Raises NotKnown."""
        known = self._reflectors[kind]
        try:
            async with asyncio.timeout(CATCH_UP_TIMEOUT_S), self._news:
                await self._news.wait_for(lambda: not names.late(known.objects))
        except TimeoutError:
            if late := names.late(known.objects):
                raise NotKnown(f"the watch has not delivered {kind} {late[0][1]} yet") from None
