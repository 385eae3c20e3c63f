"""CNI calls are counted by command and result."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cni import contract

from ..test_add_order import World, request


def test_each_call_is_counted_with_its_result(tmp_path: Path) -> None:
    async def main() -> dict[tuple[str, int], int]:
        world = World(tmp_path)
        try:
            await world.calls.handle(request(command="STATUS"))
            await world.open_all(lambda: world.state.applied is not None and not world.state.trouble)
            for _ in range(2):
                await world.calls.handle(request(command="STATUS"))
            await world.calls.handle(b"no call")
            calls = world.parts.observer.observe().calls
            assert all(found.total >= 0 for found in calls.values())
            return {key: found.number for key, found in calls.items()}
        finally:
            await world.close()

    assert asyncio.run(main()) == {
        ("STATUS", contract.NOT_AVAILABLE): 1,
        ("STATUS", 0): 2,
        ("unknown", contract.NOT_JSON): 1,
    }


def test_rounds_are_counted(tmp_path: Path) -> None:
    async def main() -> float:
        world = World(tmp_path)
        try:
            assert world.parts.observer.observe().applied_at == 0
            await world.open_all(lambda: world.state.applied_at > 0)
            return world.parts.observer.observe().applied_at
        finally:
            await world.close()

    assert asyncio.run(main()) > 1_700_000_000
