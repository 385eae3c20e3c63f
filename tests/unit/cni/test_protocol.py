"""Calls as a runtime makes them, up to the agent's socket and back."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cni import config, contract, plugin, protocol

from .agent import Answering, FakeAgent, read_all
from .test_config import configuration

RESULT = '{ "cniVersion":"1.0.0",  "interfaces" :[{"name":"veth1"}], "x": 1.50 }'


def environment(command: str = "ADD", **changes: str | None) -> dict[bytes, bytes]:
    """Return a good environment with ``changes``; None takes a variable away."""
    whole = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c-1_a.b",
        "CNI_NETNS": "/run/netns/p",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "K8S_POD_NAME=a",
        "CNI_PATH": "/opt/cni/bin",
        **changes,
    }
    return {
        key.encode(): value.encode("utf-8", "surrogateescape")
        for key, value in whole.items()
        if value is not None
    }


def stdin(agent: Path, **changes: Any) -> bytes:
    raw = configuration(socket=str(agent), prevResult=None, **changes)
    return raw[:-1] + b', "prevResult": ' + RESULT.encode() + b"}"


def call(env: dict[bytes, bytes], raw: bytes) -> tuple[int, bytes]:
    return protocol.serve(env, lambda: raw)


def error_of(outcome: tuple[int, bytes]) -> dict[str, Any]:
    status, output = outcome
    assert status == 1
    error = json.loads(output)
    assert set(error) <= {"cniVersion", "code", "msg", "details"}
    assert isinstance(error["code"], int) and error["msg"]
    return dict(error)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


def test_version_needs_neither_stdin_nor_agent() -> None:
    def untouched() -> bytes:
        raise AssertionError("stdin was read")

    status, output = protocol.serve({b"CNI_COMMAND": b"VERSION"}, untouched)
    assert (status, json.loads(output)) == (
        0,
        {"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]},
    )


def test_by_hand_it_says_what_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    error = error_of(call({}, b""))
    assert error["code"] == contract.INVALID_ENVIRONMENT
    assert "CNI_COMMAND" in error["msg"]
    assert "chained CNI plugin" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("env", "names"),
    [
        (environment("ADDD"), "CNI_COMMAND 'ADDD'"),
        (environment("add"), "CNI_COMMAND 'add'"),
        (environment(CNI_CONTAINERID=None), "CNI_CONTAINERID"),
        (environment(CNI_CONTAINERID=""), "CNI_CONTAINERID"),
        (environment(CNI_NETNS=None, CNI_IFNAME=None), "CNI_NETNS, CNI_IFNAME"),
        (environment("CHECK", CNI_NETNS=""), "CNI_NETNS"),
        (environment("DEL", CNI_IFNAME=None), "CNI_IFNAME"),
        (environment(CNI_CONTAINERID="-a"), "CNI_CONTAINERID '-a' is malformed"),
        (environment(CNI_CONTAINERID="a/../b"), "CNI_CONTAINERID"),
        (environment(CNI_CONTAINERID="a@b"), "CNI_CONTAINERID"),
        (environment(CNI_CONTAINERID="ä"), "CNI_CONTAINERID"),
        (environment(CNI_CONTAINERID="\udcff"), "CNI_CONTAINERID"),
        (environment(CNI_IFNAME="."), "CNI_IFNAME '.' is malformed"),
        (environment(CNI_IFNAME=".."), "CNI_IFNAME"),
        (environment(CNI_IFNAME="a/b"), "CNI_IFNAME"),
        (environment(CNI_IFNAME="a:b"), "CNI_IFNAME"),
        (environment(CNI_IFNAME="a b"), "CNI_IFNAME"),
        (environment(CNI_IFNAME="a234567890123456"), "15 bytes"),
    ],
)
def test_bad_environment(env: dict[bytes, bytes], names: str, path: Path) -> None:
    error = error_of(call(env, stdin(path)))
    assert error["code"] == contract.INVALID_ENVIRONMENT
    assert names in f"{error['msg']} {error['details']}"


@pytest.mark.parametrize("version", config.VERSIONS)
def test_error_has_the_version_of_the_configuration(version: str, path: Path) -> None:
    error = error_of(call(environment(), stdin(path, cniVersion=version, failurePolicy="No")))
    assert (error["cniVersion"], error["code"]) == (version, contract.INVALID_CONFIGURATION)


@pytest.mark.parametrize(
    ("command", "output"),
    [("ADD", RESULT.encode()), ("DEL", b""), ("CHECK", b""), ("GC", b""), ("STATUS", b"")],
)
def test_by_the_agent(command: str, output: bytes, path: Path) -> None:
    raw = stdin(path, cniVersion="1.1.0")
    behaviour = Answering(contract.OK)
    with FakeAgent(path, behaviour):
        assert call(environment(command), raw) == (0, output)
    reported, configured = contract.split_cni_request(behaviour.requests[0])
    assert configured == raw
    assert {key.encode(): value.encode() for key, value in reported.items()} == environment(command)


def test_refusal_of_the_agent_is_printed_as_it_is(path: Path) -> None:
    refusal = b'{"cniVersion": "1.0.0",  "code": 11, "msg": "sp\xc3\xa4ter"}'
    with FakeAgent(path, Answering(contract.ERROR + refusal)):
        assert call(environment(), stdin(path)) == (1, refusal)


def test_request_of_almost_the_limit_gets_through(path: Path) -> None:
    raw = stdin(path, runtimeConfig="x" * (contract.MAX_REQUEST_BYTES - 4096))
    behaviour = Answering(contract.OK)
    with FakeAgent(path, behaviour):
        assert call(environment(), raw) == (0, RESULT.encode())
    assert behaviour.requests[0].endswith(raw)


def test_request_beyond_the_limit_is_refused(path: Path) -> None:
    error = error_of(call(environment(), stdin(path, runtimeConfig="x" * contract.MAX_REQUEST_BYTES)))
    assert error["code"] == contract.INVALID_CONFIGURATION
    assert str(contract.MAX_REQUEST_BYTES) in error["msg"]


@pytest.mark.parametrize(
    "answer",
    [b"", b"O", b"OKOK", b"ER", b'ER{"code": 7, "ms', b'ER{"code": 7} x', b"ER\xff", b"HTTP/1.1 200 OK"],
)
def test_half_an_answer_is_none(answer: bytes, path: Path) -> None:
    with FakeAgent(path, Answering(answer)), pytest.raises(plugin.NoAnswer):
        plugin.ask(str(path), b"request", 5)


def test_agent_that_closes_before_it_has_read_all(path: Path) -> None:
    def hang_up(connection: socket.socket) -> None:
        connection.recv(1)

    with FakeAgent(path, hang_up), pytest.raises((plugin.NoAnswer, OSError)):
        plugin.ask(str(path), b"x" * contract.MAX_REQUEST_BYTES, 5)


def test_silent_agent_costs_the_deadline_and_no_more(path: Path) -> None:
    stop = threading.Event()

    def stay_silent(connection: socket.socket) -> None:
        read_all(connection)
        stop.wait(10)

    with FakeAgent(path, stay_silent):
        before = time.monotonic()
        with pytest.raises((plugin.NoAnswer, OSError)):
            plugin.ask(str(path), b"request", 0.2)
        assert 0.2 <= time.monotonic() - before < 2
        stop.set()


def test_deadline_is_for_the_whole_and_not_for_each_part(path: Path) -> None:
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        read_all(connection)
        try:
            while not stop.wait(0.05):
                connection.sendall(b"E")
        except OSError:
            pass

    with FakeAgent(path, drip):
        before = time.monotonic()
        with pytest.raises((plugin.NoAnswer, OSError)):
            plugin.ask(str(path), b"request", 0.3)
        assert time.monotonic() - before < 2
        stop.set()


def test_full_backlog_is_waited_for(path: Path) -> None:
    """An agent that is busy for a moment, while many pods start, is not an agent that is away."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(0)
    waiting = []
    with pytest.raises(BlockingIOError):
        while True:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].settimeout(5)
            waiting[-1].connect(str(path))
    answers: list[bytes] = []
    asking = threading.Thread(target=lambda: answers.append(plugin.ask(str(path), b"request", 10)))
    asking.start()
    for client in waiting:
        client.close()
    listener.settimeout(10)
    while not answers and asking.is_alive():
        connection, _ = listener.accept()
        with connection:
            asked = read_all(connection) == b"request"
            if asked:
                connection.sendall(contract.OK)
        if asked:
            asking.join(10)
    listener.close()
    assert answers == [contract.OK]


def test_no_traceback_for_what_was_not_foreseen() -> None:
    def broken() -> bytes:
        raise RuntimeError("disk on fire \ud800")

    error = error_of(protocol.serve(environment(), broken))
    assert error["code"] == contract.INTERNAL
    assert "RuntimeError: disk on fire" in error["msg"]
    assert "test_protocol.py" in error["details"]
