"""Requests of both kinds get an answer of their kind, whatever is in them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cni import contract

from ..test_add_order import World, request


def answered(directory: Path, *texts: bytes) -> list[bytes]:
    """Return the answers of an agent that knows its objects."""

    async def scenario() -> list[bytes]:
        world, answers = World(directory), []
        try:
            await world.open_all(lambda: world.state.applied is not None)
            for text in texts:
                task = asyncio.create_task(world.calls.handle(text))
                await world.open_all(task.done)
                answers.append(task.result())
        finally:
            await world.close()
        return answers

    return asyncio.run(scenario())


def test_a_cni_call_and_a_question_of_egressctl(tmp_path: Path) -> None:
    question = contract.CONTROL + b"\0" + json.dumps({"call": "status"}).encode()
    added, status = answered(tmp_path, request(), question)
    assert added == contract.OK
    assert json.loads(status)["node"] == "w1"


@pytest.mark.parametrize("text", [b"", b"\0", b"nonsense", contract.CONTROL, contract.CONTROL + b"\0{"])
def test_nonsense_is_answered_with_an_error(tmp_path: Path, text: bytes) -> None:
    [answer] = answered(tmp_path, text)
    assert answer != contract.OK
    whole = json.loads(answer[len(contract.ERROR) :] if answer.startswith(contract.ERROR) else answer)
    assert whole.get("code") or whole.get("error")
