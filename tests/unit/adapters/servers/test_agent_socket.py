"""The agent's socket, with a real client."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from pathlib import Path

import pytest

from cni import contract
from gateway_agent.adapters.servers.agent_socket import RequestServer


async def _ask(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    writer.write_eof()
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def _echo(request: bytes) -> bytes:
    return request[::-1]


def test_answers_each_connection_once_and_leaves_no_socket(tmp_path: Path) -> None:
    async def scenario() -> list[bytes]:
        server = RequestServer(tmp_path / "agent.sock", _echo)
        (tmp_path / "agent.sock").write_text("left by an earlier process")
        await server.start()
        assert (tmp_path / "agent.sock").stat().st_mode & 0o777 == 0o600
        answers = await asyncio.gather(*(_ask(server.path, f"{n:07}".encode()) for n in range(50)))
        await server.stop()
        return answers

    assert asyncio.run(scenario()) == [f"{n:07}"[::-1].encode() for n in range(50)]
    assert list(tmp_path.iterdir()) == []


def test_a_request_beyond_the_limit_is_refused_with_a_reason(tmp_path: Path) -> None:
    async def scenario() -> tuple[bytes, bytes]:
        server = RequestServer(tmp_path / "agent.sock", _echo)
        await server.start()
        refused = await _ask(server.path, bytes(contract.MAX_REQUEST_BYTES + (1 << 20)))
        served = await _ask(server.path, b"ab")
        await server.stop()
        return refused, served

    refused, served = asyncio.run(scenario())
    assert refused.startswith(contract.ERROR)
    assert json.loads(refused[2:])["msg"] == f"the request has more than {contract.MAX_REQUEST_BYTES} bytes"
    assert served == b"ba"


def test_a_request_on_which_the_agent_fails_is_answered(tmp_path: Path) -> None:
    async def fail(request: bytes) -> bytes:
        raise RecursionError(request.decode())

    async def scenario() -> bytes:
        server = RequestServer(tmp_path / "agent.sock", fail)
        await server.start()
        answer = await _ask(server.path, b"deep")
        await server.stop()
        return answer

    answer = asyncio.run(scenario())
    assert json.loads(answer.removeprefix(contract.ERROR))["msg"] == "the agent failed: RecursionError: deep"


def test_slow_clients_get_an_error_and_delay_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "DEADLINE_S", 0.3)

    async def scenario() -> tuple[bytes, list[bytes]]:
        server = RequestServer(tmp_path / "agent.sock", _echo)
        await server.start()
        slow = [await asyncio.open_unix_connection(str(server.path)) for _ in range(20)]
        for _, writer in slow:
            writer.write(b"half of a req")
        served = await _ask(server.path, b"ab")
        answers = [await reader.read() for reader, _ in slow]
        for _, writer in slow:
            writer.close()
        await server.stop()
        return served, answers

    served, answers = asyncio.run(scenario())
    assert served == b"ba"
    assert [json.loads(answer[2:])["msg"] for answer in answers] == [
        "the request did not end within 0.3 s"
    ] * 20


def test_who_has_given_up_is_not_served(tmp_path: Path) -> None:
    """A plugin that waited too long has done it alone: its call must not count after a later one."""
    seen: list[bytes] = []

    async def handle(request: bytes) -> bytes:
        seen.append(request)
        return b""

    async def scenario() -> None:
        server = RequestServer(tmp_path / "agent.sock", handle)
        await server.start()
        with socket.socket(socket.AF_UNIX) as impatient:
            impatient.connect(str(server.path))
            impatient.sendall(b"given up")
        await _ask(server.path, b"waiting")
        await server.stop()

    asyncio.run(scenario())
    assert seen == [b"waiting"]


def test_a_socket_that_is_gone_comes_back_with_its_directory(tmp_path: Path) -> None:
    async def scenario() -> tuple[bool, bytes, int]:
        restored: list[bool] = []
        server = RequestServer(
            tmp_path / "run" / "agent.sock", _echo, lambda: restored.append(server.reachable())
        )
        server.path.parent.mkdir()
        await server.start()
        keeping = asyncio.create_task(server.keep())
        assert server.reachable()
        shutil.rmtree(server.path.parent)
        gone = not server.reachable()
        async with asyncio.timeout(20):
            while not restored:
                await asyncio.sleep(0.01)
        answer = await _ask(server.path, b"abc")
        keeping.cancel()
        await server.stop()
        return gone, answer, len(restored)

    assert asyncio.run(scenario()) == (True, b"cba", 1)
