"""Write to the cluster: status, Events, the voter set, a node's taint and condition. No packet depends on it."""

from __future__ import annotations

import asyncio
import http
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from ..lease.voting import recorded_voter_set
from ..lease.voting.voter_set import VoterSet
from ..show.snapshot import NodeSnapshot
from . import voter_configmap
from .client import Api, ApiError
from .cluster_store import ClusterStore
from .conditions import Report, cluster_status_writer, reports
from .empty_policies import EmptyPolicyChecker, PodQuery, questions, selects_nothing
from .k8s_events import NAMESPACE, EventRecord, EventSource, event, is_due, is_outdated, of_report, repeated
from .node_marker import NodeMarker
from .objects import VOTERS
from .status_writers import Writers

log = logging.getLogger(__name__)
POLL_INTERVAL_S = 1.0
"""Seconds between two checks for something to write. A check makes no request."""
FIRST_BACKOFF_S, MAX_BACKOFF_S = 2.0, 60.0
"""Seconds after a write that the API has refused, doubled with each refusal."""
SETTLE_S = 10.0
"""Seconds after which a voter set counts as settled, not as a change in progress; also between two writes."""
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
MAX_QUEUED_EVENTS = 100
"""Events that wait while the API is away; the oldest ones are dropped."""


class ClusterReport:
    """The writer. ``view``: returns this node's state; None if there is none yet."""

    def __init__(
        self,
        api: Api,
        store: ClusterStore,
        view: Callable[[], NodeSnapshot | None],
        marker: NodeMarker | None = None,
    ) -> None:
        self._marker = marker
        self._api = api
        self._store = store
        self._view = view
        self._chronicle = EventSource(time.time())
        self._inquiry = EmptyPolicyChecker()
        self._waiting: list[EventRecord] = []
        self._agreed = VoterSet(0, ()), 0.0
        """The present voter set, and the moment since which it is known."""
        self._published = VoterSet(0, ()), 0.0
        """The last written voter set, and the moment of the write: the watch may be late, and another node may write.
        """
        self._writers = Writers()

    async def run(self) -> None:
        """Write whatever is due, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._report())
            if self._marker is not None:
                tasks.create_task(self._marker.run())

    async def leave(self) -> None:
        """Write that the agent of this node stops."""
        if self._marker is not None:
            await self._marker.leave()

    async def _report(self) -> None:
        pause = FIRST_BACKOFF_S
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            view = self._view()
            if view is None:
                continue
            self._waiting = [*self._waiting, *self._chronicle.new_events(view, time.time())][
                -MAX_QUEUED_EVENTS:
            ]
            try:
                await self._write_statuses(view)
                await self._write_events(view)
                await self._ask_for_pods(view)
                await self._publish_voters(view)
                pause = FIRST_BACKOFF_S
            except ApiError as error:
                log.warning("status and Events are delayed: Kubernetes API: %s", error)
                # Random, so that not all agents write in the same second when the API comes back.
                await asyncio.sleep(max(pause * (0.5 + random.random()), error.retry_after))
                pause = min(2 * pause, MAX_BACKOFF_S)

    async def _write_statuses(self, view: NodeSnapshot) -> None:
        for report in reports(view, self._writers.as_written(self._store.ours()), time.time()):
            if self._writers.may_write(report, time.monotonic()) and await self._write_status(report):
                self._waiting += of_report(report, time.time())

    async def _write_status(self, report: Report) -> bool:
        """Write a status for the version of the object that it was computed for. Return False on a conflict."""
        patch = {"metadata": {"resourceVersion": report.version}, "status": report.status}
        try:
            stored = await self._api.merge(f"{self._store.path_of(report.kind, report.name)}/status", patch)
        except ApiError as error:
            if error.status != http.HTTPStatus.CONFLICT:
                raise
            self._writers.refused(report)
            return False
        if stored is None:
            return False
        if self._writers.contested(report):
            log.warning("%s %s: another node writes a different status", report.kind, report.name)
        self._writers.wrote(report, stored, time.monotonic())
        return True

    async def _ask_for_pods(self, view: NodeSnapshot) -> None:
        """Check one policy, if one is due, and queue an event if it selects no pod."""
        state = (
            self._inquiry.due(self._store.ours(), time.monotonic())
            if cluster_status_writer(view) == view.plan.node
            else None
        )
        if state is None:
            return
        inventory = view.inventory
        policy = inventory.policies_by_name.get(state[0])
        if policy is not None:
            try:
                if not await self._has_any(questions(policy, inventory.namespaces)):
                    self._waiting.append(selects_nothing(policy.name, time.time()))
            except ApiError as error:
                log.warning("check of policy %s for pods failed: Kubernetes API: %s", policy.name, error)
                self._inquiry.postpone(state, time.monotonic())
                return
        self._inquiry.answered(state)

    async def _has_any(self, asked: list[PodQuery]) -> bool:
        for question in asked:
            if await self._store.has_pod(question):
                return True
        return False

    async def _publish_voters(self, view: NodeSnapshot) -> None:
        """Write the voter set to its ConfigMap after a change, on one node."""
        if view.lease_daemon is None or cluster_status_writer(view) != view.plan.node:
            return
        agreed, item, now = (
            VoterSet(view.lease_daemon.voter_set, view.lease_daemon.voters),
            self._store.voter_configmap(),
            time.monotonic(),
        )
        if agreed != self._agreed[0]:
            self._agreed = agreed, now
        patch = voter_configmap.correction(item, agreed, settled=now >= self._agreed[1] + SETTLE_S)
        if patch is None or (self._published[0] == agreed and now < self._published[1] + SETTLE_S):
            return
        self._published = agreed, now
        try:
            await self._api.merge(self._store.path_of(VOTERS, recorded_voter_set.NAME), patch)
        except ApiError as error:
            # After a conflict the watch delivers the other node's version.
            if error.status != http.HTTPStatus.CONFLICT:
                log.warning("the voter set is not written: Kubernetes API: %s", error)

    async def _write_events(self, view: NodeSnapshot) -> None:
        self._waiting = [record for record in self._waiting if not is_outdated(record, view)]
        for record in [record for record in self._waiting if is_due(record, view)]:
            known = self._store.identity_of(record.kind, record.name)
            if known is not None:
                await self._write_event(record, event(record, *known, view.plan.node))
            self._waiting.remove(record)

    async def _write_event(self, record: EventRecord, body: dict[str, Any]) -> None:
        try:
            await self._api.create(EVENTS, body)
        except ApiError as error:
            if error.status != http.HTTPStatus.CONFLICT:
                raise
            await self._count_event(f"{EVENTS}/{body['metadata']['name']}", record)

    async def _count_event(self, path: str, record: EventRecord) -> None:
        stored = await self._api.get(path)
        patch = repeated(stored, record) if stored is not None else None
        if patch is not None:
            await self._api.merge(path, patch)
