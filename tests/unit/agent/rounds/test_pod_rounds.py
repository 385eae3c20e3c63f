"""Rounds for pods that start: one round for all that have come, each with its own outcome."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cni.kernel.errors import KernelError

from ...policy.small_inventory import policy
from ..gates import Gates, HeldKernel
from ..test_add_order import VETH, World, request, with_policies

KEY = "web-0", "eth0"


def start(world: World) -> asyncio.Task[None]:
    return asyncio.create_task(world.parts.pod_rounds.tag(KEY))


class Refusing(HeldKernel):
    """A kernel that refuses tags as long as a test says so."""

    refuses = False

    async def tag(self, device: str, group: int) -> None:
        await self.gates.hold("tag")
        if self.refuses:
            raise KernelError("no memory")
        self.groups[device] = group


async def until_tagging(world: World) -> None:
    while "tag" not in [name for name, _ in world.gates.waiting]:
        await asyncio.sleep(0)


async def started(directory: Path, kernel: HeldKernel | None = None) -> World:
    """Return a world with one pod, whose tag another program has removed since."""
    world = World(directory, with_policies(policy("a")), kernel=kernel)
    await world.open_all(lambda: world.state.applied is not None)
    add = asyncio.create_task(world.calls.handle(request(labels=["a"])))
    await world.open_all(add.done)
    world.kernel.groups[VETH] = 0
    pod = world.parts.pods.get(KEY)
    assert pod is not None
    pod.tag = None
    return world


def test_the_end_of_one_caller_does_not_end_the_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = await started(tmp_path)
        try:
            gone, stays = start(world), start(world)
            await asyncio.sleep(0)
            gone.cancel()
            await world.open_all(stays.done)
            assert stays.exception() is None
            assert world.kernel.tag_on(VETH) != 0
        finally:
            await world.close()

    asyncio.run(scenario())


def test_a_call_that_comes_during_a_round_has_the_outcome_of_the_next_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = await started(tmp_path, kernel := Refusing(Gates()))
        try:
            kernel.refuses = True
            first = start(world)
            await until_tagging(world)
            second = start(world)
            await world.open_all(first.done)
            assert isinstance(first.exception(), KernelError)
            assert not second.done()
            kernel.refuses = False
            await world.open_all(second.done)
            assert second.exception() is None
            assert kernel.tag_on(VETH) != 0
        finally:
            await world.close()

    asyncio.run(scenario())


def test_before_the_first_plan_a_round_tags_nothing_and_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path, with_policies(policy("a")))
        try:
            waiting = start(world)
            for _ in range(5):
                await asyncio.sleep(0)
            assert waiting.done()
            assert world.kernel.groups == {}
        finally:
            await world.close()

    asyncio.run(scenario())
