"""As ``test_add_order.py``, with the Kubernetes store: its watches and questions to an API server, each one held."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gateway_agent.agent.requests import cni_add
from gateway_agent.kubernetes import cluster_store
from gateway_agent.kubernetes.client import OPENED, Api, Page
from gateway_agent.kubernetes.cluster_store import ClusterStore
from gateway_agent.kubernetes.objects import resources
from tests.lab import documents
from tests.lab.apiserver.local import LocalServer, serving

from ..kubernetes.cluster_scenario import GROUP, NAMESPACE, POLICIES
from .edited_policies import EditedPolicies, nodes
from .gates import Gates, settle
from .test_add_order import LABELS, World, judged, request

T = TypeVar("T")
LATE_S = 60.0
"""Seconds that exceed the length of a run, since no clock is to decide."""


class HeldApi(Api):
    """Each question waits before it is asked and before its answer counts; so does each event of a watch."""

    def __init__(self, gates: Gates, kubeconfig: Path) -> None:
        super().__init__(kubeconfig)
        self.gates = gates
        self._in_flight = 0
        self._silent: set[str] = set()
        """Paths of the watches that wait for an event of the server."""
        self._news = asyncio.Condition()

    async def page(self, path: str, selector: str = "", token: str = "", *, names_only: bool = False) -> Page:
        async with self._held(path):
            page = await super().page(path, selector, token, names_only=names_only)
        await self.gates.hold(f"page {path}")
        return page

    async def get(self, path: str) -> dict[str, Any] | None:
        async with self._held(path):
            found = await super().get(path)
        await self.gates.hold(f"got {path}")
        return found

    async def watch(
        self, path: str, selector: str, version: str, seconds: int
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        async with contextlib.aclosing(Api.watch(self, path, selector, version, seconds)) as events:
            async with self._held(path):
                assert (await anext(events))[0] == OPENED
            yield OPENED, {}
            while True:
                await self._change(lambda: self._silent.add(path))
                try:
                    kind, item = await anext(events)
                finally:
                    self._silent.discard(path)
                await self._change()
                await self.gates.hold(f"{kind} {path}")
                yield kind, item

    async def quiet(self) -> None:
        """Wait until nothing is on its way to the server or back."""
        await settle()
        async with asyncio.timeout(LATE_S), self._news:
            await self._news.wait_for(lambda: not self._in_flight)
        await settle()

    async def reported(self, path: str) -> None:
        """Wait until the watch of ``path`` has an event, if it was waiting for one."""
        async with asyncio.timeout(LATE_S), self._news:
            await self._news.wait_for(lambda: path not in self._silent)
        await settle()

    @contextlib.asynccontextmanager
    async def _held(self, path: str) -> AsyncIterator[None]:
        await self.gates.hold(f"ask {path}")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            await self._change()

    async def _change(self, change: Callable[[], None] = lambda: None) -> None:
        change()
        async with self._news:
            self._news.notify_all()


class Reported:
    """A world with this API server, and what the server had."""

    def __init__(self, directory: Path, server: LocalServer) -> None:
        self.server = server
        self.apis: list[HeldApi] = []
        self.policies = EditedPolicies()
        self.world = World(directory, store=self._store(directory / "last-known.json"))

    def _store(self, last_known: Path) -> Callable[[Gates], ClusterStore]:
        def make(gates: Gates) -> ClusterStore:
            self.apis.append(HeldApi(gates, self.server.kubeconfig))
            watched = [r for r in resources(GROUP, "w1", NAMESPACE) if r.kind != "ServiceCIDR"]
            return ClusterStore(self.apis[-1], watched, last_known)

        return make

    async def open(self, index: int = 0) -> None:
        await self.world.gates.open(index)
        await self.apis[0].quiet()

    async def open_first(self) -> None:
        """Open the gate that has waited longest, if there is one."""
        if self.world.gates.waiting:
            await self.open()

    async def open_all(self, until: Callable[[], bool]) -> None:
        """Open gates in the order of arrival until something holds."""
        async with asyncio.timeout(LATE_S):
            while not until():
                await settle()
                await self.open_first()

    async def edit(self, name: str, *destinations: str) -> None:
        """Write a policy, or delete it if it leads nowhere."""
        if destinations:
            self.server.cluster.apply(documents.policy(name, "partner", {name: "yes"}, destinations))
        else:
            self.server.cluster.delete(f"{POLICIES}/{name}")
        self.policies.edit(name, destinations)
        await self.apis[0].reported(f"/apis/{GROUP}/v1alpha1/egressgatewaypolicies")


EDITS = (
    ("a", "203.0.113.0/24"),
    ("a", "198.51.100.0/24"),
    ("b", "203.0.113.0/24"),
    ("a",),
    ("a", "192.0.2.0/24"),
)
"""Changes of the cluster, one after another."""
EVENTS = ("ADDED", "MODIFIED", "DELETED")
SLOW: tuple[tuple[str, ...], ...] = (
    (),
    EVENTS,
    ("tag",),
    ("reconcile",),
    ("page", "got"),
    ("disk",),
    ("thread",),
)
"""Calls that wait in a run as long as anything else continues: races need one that is much slower than the rest."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with serving(tmp_path_factory.mktemp("api")) as server:
        server.cluster.apply(documents.gateway("partner", "eth1", {"role": "egress"}))
        for node in nodes():
            server.cluster.apply(node)
        yield server


@pytest.fixture
def server(shared: LocalServer, monkeypatch: pytest.MonkeyPatch) -> LocalServer:
    for name in LABELS:
        shared.cluster.delete(f"{POLICIES}/{name}")
    shared.cluster.remove("prod", "web-0")
    shared.cluster.namespace("prod")
    monkeypatch.setattr(cluster_store, "DEBOUNCE_S", 0.0)
    for module, name in (
        (cluster_store, "POD_QUERY_TIMEOUT_S"),
        (cluster_store, "CATCH_UP_TIMEOUT_S"),
        (cni_add, "ADD_S"),
    ):
        monkeypatch.setattr(module, name, LATE_S)
    return shared


@pytest.mark.parametrize("seed", range(48))
def test_an_add_never_answers_by_older_objects_than_the_api_had(
    tmp_path: Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Edits, the pod and its ADD between any two steps of watches, questions, rounds, and of what is kept on disk."""
    rng = random.Random(seed)
    edits = list(EDITS[rng.randrange(len(EDITS)) :])
    late, pace = SLOW[seed % len(SLOW)], rng.choice([0.02, 0.1, 0.3])
    answers: list[str] = []
    began: list[int] = []

    async def scenario() -> None:
        reported = Reported(tmp_path, server)
        world = reported.world

        async def to_thread(write: Callable[..., T], *arguments: Any) -> T:
            await world.gates.hold("disk")
            return write(*arguments)

        monkeypatch.setattr(asyncio, "to_thread", to_thread)

        def answered(task: asyncio.Task[bytes]) -> None:
            known = reported.policies.known_since(began[0], world.state.inventory)
            answers.append(judged(world, task) if known else "by older objects")

        try:
            await reported.open_all(lambda: world.state.applied is not None)
            call: asyncio.Task[bytes] | None = None
            while call is None or not call.done():
                await settle()
                world.check_left_alone()
                waiting = [
                    i for i, (name, _) in enumerate(world.gates.waiting) if name.split()[0] not in late
                ]
                if waiting and rng.random() > pace:
                    await reported.open(rng.choice(waiting))
                elif call is None and rng.random() < 0.5:
                    # Its kubelet starts it a moment after it was bound to this node.
                    server.cluster.run("prod", "web-0", "w1", dict.fromkeys(LABELS, "yes"))
                    began.append(reported.policies.newest())
                    call = asyncio.create_task(world.calls.handle(request()))
                    # Nothing else may run between the answer and the look at the kernel.
                    call.add_done_callback(answered)
                elif edits:
                    await reported.edit(*edits.pop(0))
                else:
                    await reported.open_first()
            await settle()
        finally:
            await world.close()

    asyncio.run(scenario())
    assert answers == ["right"]
