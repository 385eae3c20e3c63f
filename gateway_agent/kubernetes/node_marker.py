"""Write this node's taint and condition, see :mod:`.node_marks`. No packet depends on it."""

from __future__ import annotations

import asyncio
import http
import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from .client import Api, ApiError
from .cluster_store import ClusterStore
from .node_marks import condition_patch, taint_patch
from .reflector import Object, version_of

log = logging.getLogger(__name__)
POLL_INTERVAL_S = 1.0
"""Seconds between two checks for something to write. A check makes no request."""
SETTLE_S = 2.0
"""Seconds for which a node must have been not ready before that is written: a restart of the agent is shorter."""
FIRST_BACKOFF_S, MAX_BACKOFF_S = 2.0, 60.0
"""Seconds after a write that the API has refused, doubled with each refusal."""
LAST_WRITE_TIMEOUT_S = 2.0
"""Seconds for the last write of a stopping agent."""
MAX_LATE_WRITES = 16
"""Largest number of own writes by which the watch may lag behind."""
LEFT = "the agent does not run"
"""Reason for *not ready* from the stop of the agent on."""


class NodeMarker:
    """The writer of the taint and the condition of one node.

    ``unready``: returns why a pod could now start here without the plugin; empty if none can. ``taint``, ``condition``:
    True if that one is written; the other one is not touched. ``first``: True for the first agent since the boot: then
    *not ready* is written without a delay for a restart.
    """

    def __init__(
        self,
        api: Api,
        store: ClusterStore,
        node: str,
        unready: Callable[[], str],
        taint: bool,
        condition: bool,
        first: bool = False,
    ) -> None:
        self._api = api
        self._store = store
        self._node = node
        self._unready = unready
        self._taint, self._condition = taint, condition
        self._since: float | None = -math.inf if first else None
        """The moment since which the node has been not ready, by the event loop's clock; None: it is ready."""
        self._own: Object = {}
        """The node in the answer to this node's last write."""
        self._over: tuple[str, ...] = ()
        """Versions before that write and earlier ones, which the watch may still deliver."""
        self._writing = asyncio.Lock()
        self._left = False
        """True since :meth:`leave`: from then on the agent's own readiness is ignored."""
        self._refused = ""
        """Version that this node had when the API refused a write because of a newer one."""

    async def run(self) -> None:
        """Write the changes that are due, until cancelled."""
        pause = FIRST_BACKOFF_S
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            unready = self._unready()
            if not self._settled(unready):
                continue
            try:
                async with self._writing:
                    await self._write(LEFT if self._left else unready)
                pause = FIRST_BACKOFF_S
            except ApiError as error:
                log.warning("the node's taint and condition are delayed: Kubernetes API: %s", error)
                await asyncio.sleep(max(pause * (0.5 + random.random()), error.retry_after))
                pause = min(2 * pause, MAX_BACKOFF_S)

    async def leave(self) -> None:
        """Write that this node is not ready, because its agent stops. :meth:`run` does not change that."""
        self._left = True
        try:
            async with asyncio.timeout(LAST_WRITE_TIMEOUT_S), self._writing:
                await self._write(LEFT)
        except (ApiError, TimeoutError) as error:
            log.warning(
                "the node's taint and condition do not show the stop: %s", error or "no answer in time"
            )

    def _settled(self, unready: str) -> bool:
        """Return True if the node is ready, or has not been ready for a while."""
        now = asyncio.get_running_loop().time()
        if not unready:
            self._since = None
        elif self._since is None:
            self._since = now
        return self._since is None or now >= self._since + SETTLE_S

    async def _write(self, unready: str) -> None:
        path = self._store.path_of("Node", self._node)
        if self._condition and (node := self._newest()) is not None:
            await self._patch(
                f"{path}/status", node, condition_patch(node, unready, time.time()), strategic=True
            )
        if self._taint and (node := self._newest()) is not None and version_of(node) != self._refused:
            await self._patch(path, node, taint_patch(node, unready))

    async def _patch(
        self, path: str, node: Object, patch: Mapping[str, Any] | None, *, strategic: bool = False
    ) -> None:
        if patch is None:
            return
        try:
            stored = await self._api.merge(path, patch, strategic=strategic)
        except ApiError as error:
            if error.status != http.HTTPStatus.CONFLICT:
                raise
            # The watch delivers the other program's version.
            self._refused = version_of(node)
            return
        if stored is not None:
            self._over = (*self._over[1 - MAX_LATE_WRITES :], version_of(node))
            self._own = stored

    def _newest(self) -> Object | None:
        """Return the newest version of the node, by the watch or the last own write; None if there is none."""
        seen = self._store.node(self._node)
        if seen is not None and version_of(seen) in self._over:
            return self._own
        return seen
