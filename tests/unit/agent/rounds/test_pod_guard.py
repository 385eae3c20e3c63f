"""The guard of unknown pods, as an agent sets it: whom it takes in first, and what happens if it cannot be set."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cni import contract
from cni.kernel import ids
from cni.kernel.errors import KernelError

from ...policy.small_inventory import policy
from ..gates import Gates, HeldKernel
from ..test_add_order import EMPTY, VETH, World, request, with_policies

OLD = "vethold"
"""An interface that no call has named."""


class Refusing(HeldKernel):
    async def guard(self, text: str) -> tuple[str, ...]:
        raise KernelError("nft: no such thing", "a hint")


def run(
    directory: Path, scenario: Callable[[World], Awaitable[None]], kernel: HeldKernel, on: str = "On"
) -> None:
    async def main() -> None:
        world = World(directory, EMPTY, kernel=kernel, guard=on)
        try:
            await world.open_all(lambda: world.state.followed is not None)
            await scenario(world)
        finally:
            await world.close()

    asyncio.run(main())


def guard_file(directory: Path) -> Path:
    return directory / "state" / "guard.nft"


def test_what_was_there_before_the_guard_passes(tmp_path: Path) -> None:
    kernel = HeldKernel(Gates(), groups={OLD: 0})

    async def scenario(world: World) -> None:
        assert kernel.groups[OLD] == ids.GROUP_UNSELECTED
        assert guard_file(tmp_path).read_text() == kernel.guarding
        kernel.groups["vethlate"] = 0
        ended = asyncio.create_task(world.parts.reconciler.next_round())
        await world.open_all(ended.done)
        assert kernel.groups["vethlate"] == 0, "it came after the guard"

    run(tmp_path, scenario, kernel)


def test_after_a_reboot_nothing_was_there_before_the_guard(tmp_path: Path) -> None:
    guard_file(tmp_path).parent.mkdir()
    guard_file(tmp_path).write_text("the rules of the last boot")
    kernel = HeldKernel(Gates(), groups={OLD: 0})

    async def scenario(world: World) -> None:
        assert kernel.groups[OLD] == 0
        assert guard_file(tmp_path).read_text() == kernel.guarding != ""

    run(tmp_path, scenario, kernel)


def test_switched_off_it_leaves_nothing(tmp_path: Path) -> None:
    guard_file(tmp_path).parent.mkdir()
    guard_file(tmp_path).write_text("rules")
    kernel = HeldKernel(Gates(), guarding="hook")

    async def scenario(world: World) -> None:
        assert not guard_file(tmp_path).exists()
        assert "hook" not in kernel.guarding

    run(tmp_path, scenario, kernel, "Off")


def test_a_guard_that_cannot_be_set_is_a_problem_and_pods_start(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        assert [str(p) for p in world.problems() if p.source == "guard"] == [
            "guard: it is not set: nft: no such thing (a hint)"
        ]
        call = asyncio.create_task(world.calls.handle(request()))
        await world.open_all(call.done)
        assert call.result() == contract.OK
        assert world.kernel.groups[VETH] == ids.GROUP_UNSELECTED

    run(tmp_path, scenario, Refusing(Gates()))


def test_rules_that_cannot_be_kept_are_a_problem_and_the_guard_is_set(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no directory")

    async def scenario(world: World) -> None:
        [problem] = [problem for problem in world.problems() if problem.source == "guard"]
        assert str(tmp_path / "state") in problem.message
        assert "hook" in world.kernel.guarding

    run(tmp_path, scenario, HeldKernel(Gates()))


@pytest.mark.parametrize("selected", [True, False])
def test_a_group_of_another_program_gives_way_to_a_policy_only(tmp_path: Path, selected: bool) -> None:
    kernel = HeldKernel(Gates(), groups={VETH: 77})

    async def main() -> None:
        world = World(tmp_path, with_policies(policy("a")), kernel=kernel)
        try:
            await world.open_all(lambda: world.state.followed is not None)
            call = asyncio.create_task(world.calls.handle(request(labels=["a" if selected else "b"])))
            await world.open_all(call.done)
            assert call.result() == contract.OK
            ended = asyncio.create_task(world.parts.reconciler.next_round())
            await world.open_all(ended.done)
            assert (kernel.groups[VETH] == 77) is not selected
        finally:
            await world.close()

    asyncio.run(main())
