"""A part of the outside world that blocks keeps neither calls of the plugin nor the lease daemon waiting.

These tests run in real time, with real threads: what blocks is released only when the test has seen that all else goes
on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cni import contract
from gateway_agent.adapters.worker_threads import WorkerThreads
from gateway_agent.lease.ipc import KeeperState

from ..agent.egress_node import daemon_state
from ..agent.gates import FakeDaemon, FakeInterfaces, Gates, HeldKernel
from ..agent.test_add_order import EMPTY, VETH, World, request, with_policies
from ..policy.small_inventory import policy

LIMIT_S = 30.0
"""Seconds after which a test has failed."""


class Free(Gates):
    """Gates that are open."""

    async def hold(self, name: str) -> None:
        if name == "watch":
            await super().hold(name)
        await asyncio.sleep(0)


class Blocking:
    """Something that blocks the thread that comes to it, once it is switched on."""

    def __init__(self) -> None:
        self.on = False
        self.reached = threading.Event()
        self.released = threading.Event()

    def __call__(self) -> None:
        if self.on:
            self.reached.set()
            assert self.released.wait(LIMIT_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("selected", [True, False], ids=["selected", "unselected"])
def test_calls_and_the_lease_daemon_go_on_while_a_round_blocks(tmp_path: Path, selected: bool) -> None:
    """The kernel does not say for a long time which interfaces it has."""

    async def scenario() -> None:
        block, daemon = Blocking(), FakeDaemon()
        others = {
            "interfaces": FakeInterfaces(before=block), "lease_daemon": daemon, "threads": WorkerThreads(),
        }  # fmt: skip
        kernel = HeldKernel(Free())
        world = World(tmp_path, with_policies(policy("a")), kernel=kernel, others=others)
        try:
            await until(lambda: world.state.followed is not None)
            block.on = True
            world.parts.reconciler.request()
            await until(block.reached.is_set)
            async with asyncio.timeout(LIMIT_S):
                answer = await world.calls.handle(request(labels=["a" if selected else "b"]))
                assert answer == contract.OK
                assert bool(kernel.tag_on(VETH)) is selected
                daemon.news.put_nowait(daemon_state("g2", 3))
                await until(lambda: isinstance(world.parts.leases.state, KeeperState))
                before = len(daemon.sent)
                world.parts.daemon_config.send()
                assert len(daemon.sent) == before + 1
                assert await world.calls.handle(b'ctl1\0{"call": "status"}')
                assert await world.calls.handle(request(command="DEL")) == contract.OK
            assert not block.released.is_set()
            assert world.state.plan is not None and not world.state.plan.egress_ips[0].master
        finally:
            block.released.set()
            await until(lambda: bool(world.state.plan and world.state.plan.egress_ips[0].master))
            await world.close()

    asyncio.run(scenario())


def test_interfaces_are_read_and_plans_made_and_written_beside_the_event_loop(tmp_path: Path) -> None:
    async def scenario() -> None:
        threads: list[threading.Thread] = []
        interfaces = FakeInterfaces(before=lambda: threads.append(threading.current_thread()))
        functions: list[str] = []

        class Noting(WorkerThreads):
            async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
                functions.append(function.__qualname__)
                return await super().run(function, *args, **kwargs)

        kernel = HeldKernel(Free())
        world = World(tmp_path, EMPTY, kernel=kernel, others={"interfaces": interfaces, "threads": Noting()})
        try:
            await until(lambda: world.state.followed is not None)
            functions.clear()
            world.store.inventory = replace(EMPTY, policies=(policy("a"),))
            await until(lambda: bool(world.gates.waiting))
            await world.gates.open(0)
            await until(lambda: world.state.followed == world.store.inventory)
            assert threads and threading.main_thread() not in threads
            assert functions[:3] == ["Planning._read", "Quarantine.build", "PlanFile.write"]
        finally:
            await world.close()

    asyncio.run(scenario())
