"""CNI calls other than ADD, and the error object of each fault."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cni import contract
from cni.kernel.errors import KernelError

from ...policy.small_inventory import policy
from ..test_add_order import VETH, World, request, with_policies


def scenario(directory: Path, steps: Callable[[World], Awaitable[None]]) -> None:
    """Run the steps in a world whose kernel is at its first plan; policy ``a`` selects pods."""

    async def main() -> None:
        world = World(directory, with_policies(policy("a")))
        try:
            await world.open_all(lambda: world.state.applied is not None)
            await steps(world)
        finally:
            await world.close()

    asyncio.run(main())


async def call(world: World, command: str, **changes: Any) -> dict[str, Any]:
    """Return the error object of the answer; empty if the call was carried out."""
    task = asyncio.create_task(world.calls.handle(request(command=command, **changes)))
    await world.open_all(task.done)
    answer = task.result()
    return {} if answer == contract.OK else json.loads(answer[len(contract.ERROR) :])


def test_an_added_pod_is_as_it_was_made_until_another_program_changes_its_tag(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        assert await call(world, "ADD", labels=["a"]) == {}
        assert await call(world, "CHECK", labels=["a"]) == {}
        world.kernel.groups[VETH] = 4711
        error = await call(world, "CHECK", labels=["a"])
        assert error["code"] == contract.NOT_AS_ADDED
        assert error["details"] == f"interface {VETH} does not carry the tag of a"

    scenario(tmp_path, steps)


def test_a_pod_that_was_not_added_is_not_as_added(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        error = await call(world, "CHECK")
        assert (error["code"], error["cniVersion"]) == (contract.NOT_AS_ADDED, "1.0.0")

    scenario(tmp_path, steps)


def test_a_delete_may_come_twice(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        await call(world, "ADD", labels=["a"])
        assert [await call(world, "DEL") for _ in range(2)] == [{}, {}]
        assert (await call(world, "CHECK"))["code"] == contract.NOT_AS_ADDED

    scenario(tmp_path, steps)


def test_status_is_an_error_while_the_kernel_is_in_trouble(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        assert await call(world, "STATUS") == {}
        world.state.trouble = "the kernel refused a rule"
        error = await call(world, "STATUS")
        assert (error["code"], error["details"]) == (contract.NOT_AVAILABLE, "the kernel refused a rule")

    scenario(tmp_path, steps)


def test_a_refusal_of_the_kernel_and_a_fault_of_ours_are_answers(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        await call(world, "ADD", labels=["a"])

        async def refuses(plan: object) -> tuple[str, ...]:
            raise KernelError("no memory", "free some")

        async def fails(plan: object) -> tuple[str, ...]:
            raise ZeroDivisionError

        world.kernel.missing = refuses  # type: ignore[method-assign]
        error = await call(world, "CHECK", labels=["a"])
        assert (error["code"], error["msg"], error["details"]) == (
            contract.KERNEL_REFUSED, "no memory", "free some",
        )  # fmt: skip
        world.kernel.missing = fails  # type: ignore[method-assign]
        assert (await call(world, "CHECK", labels=["a"]))["code"] == contract.INTERNAL

    scenario(tmp_path, steps)
