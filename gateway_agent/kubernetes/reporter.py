"""Tells the cluster: the status of gateways and policies, and Events. Nothing here is on the way of a packet."""

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
from .objects import VOTERS
from .status_writers import Writers

log = logging.getLogger(__name__)
POLL_INTERVAL_S = 1.0
"""Seconds between two looks at what there is to tell; a look asks nobody."""
FIRST_BACKOFF_S, MAX_BACKOFF_S = 2.0, 60.0
"""Seconds after a write that the API has refused."""
SETTLE_S = 10.0
"""Seconds after which a voter set is not just one that this node has not heard the end of yet; and from one writing
of it to the next."""
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
MAX_QUEUED_EVENTS = 100
"""Events that wait for an API that is away; older ones are forgotten."""


class ClusterReport:
    """``view``: what this node knows now, None where it knows nothing yet."""

    def __init__(self, api: Api, store: ClusterStore, view: Callable[[], NodeSnapshot | None]) -> None:
        self._api = api
        self._store = store
        self._view = view
        self._chronicle = EventSource(time.time())
        self._inquiry = EmptyPolicyChecker()
        self._waiting: list[EventRecord] = []
        self._agreed = VoterSet(0, ()), 0.0
        """The voter set, and since when it is known."""
        self._published = VoterSet(0, ()), 0.0
        """The voters that were written last, and when: the watch may be late, and there may be another writer."""
        self._writers = Writers()

    async def run(self) -> None:
        """Ends with its task."""
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
                log.warning("what the cluster should hear waits: Kubernetes API: %s", error)
                # An API that comes back should not hear from everybody in the same second.
                await asyncio.sleep(max(pause * (0.5 + random.random()), error.retry_after))
                pause = min(2 * pause, MAX_BACKOFF_S)

    async def _write_statuses(self, view: NodeSnapshot) -> None:
        for report in reports(view, self._writers.as_written(self._store.ours()), time.time()):
            if self._writers.may_write(report, time.monotonic()) and await self._write_status(report):
                self._waiting += of_report(report, time.time())

    async def _write_status(self, report: Report) -> bool:
        """Write it over the version of the object that it was made for; return False where there is another one."""
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
            log.warning("%s %s: another node writes another status of it", report.kind, report.name)
        self._writers.wrote(report, stored, time.monotonic())
        return True

    async def _ask_for_pods(self, view: NodeSnapshot) -> None:
        """For each state of a policy, one at a time: whether it selects anything."""
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
                log.warning("whether policy %s selects anything: Kubernetes API: %s", policy.name, error)
                self._inquiry.postpone(state, time.monotonic())
                return
        self._inquiry.answered(state)

    async def _has_any(self, asked: list[PodQuery]) -> bool:
        for question in asked:
            if await self._store.has_pod(question):
                return True
        return False

    async def _publish_voters(self, view: NodeSnapshot) -> None:
        """After each change of the voters one node writes it down."""
        if view.keeper is None or cluster_status_writer(view) != view.plan.node:
            return
        agreed, item, now = (
            VoterSet(view.keeper.voter_set, view.keeper.voters),
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
            # With a conflict another node was faster, and the watch tells what it has written.
            if error.status != http.HTTPStatus.CONFLICT:
                log.warning("the voters are not written down: Kubernetes API: %s", error)

    async def _write_events(self, view: NodeSnapshot) -> None:
        self._waiting = [happening for happening in self._waiting if not is_outdated(happening, view)]
        for happening in [happening for happening in self._waiting if is_due(happening, view)]:
            known = self._store.identity_of(happening.kind, happening.name)
            if known is not None:
                await self._write_event(happening, event(happening, *known, view.plan.node))
            self._waiting.remove(happening)

    async def _write_event(self, happening: EventRecord, body: dict[str, Any]) -> None:
        try:
            await self._api.create(EVENTS, body)
        except ApiError as error:
            if error.status != http.HTTPStatus.CONFLICT:
                raise
            await self._count_event(f"{EVENTS}/{body['metadata']['name']}", happening)

    async def _count_event(self, path: str, happening: EventRecord) -> None:
        standing = await self._api.get(path)
        patch = repeated(standing, happening) if standing is not None else None
        if patch is not None:
            await self._api.merge(path, patch)
