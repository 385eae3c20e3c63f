"""The lease daemon's end of ``keeper.sock``: whole lines, several agents, a socket that is taken away."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_agent.lease_daemon.ipc_server import AgentConnections


class Loop:
    """The daemon's loop: calls back for what can be read, until nothing can."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.selector = selectors.DefaultSelector()
        self.agents = AgentConnections(path, self.selector)

    def turn(self) -> None:
        while events := self.selector.select(0):
            for key, _ in events:
                key.data()

    def connect(self) -> socket.socket:
        agent = socket.socket(socket.AF_UNIX)
        agent.connect(str(self.path))
        agent.setblocking(False)
        self.turn()
        return agent


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    loop = Loop(tmp_path / "keeper.sock")
    yield loop
    loop.selector.close()


def test_only_root_may_connect(loop: Loop) -> None:
    assert loop.path.stat().st_mode & 0o777 == 0o600


def test_a_line_counts_when_it_is_whole_and_the_last_one_only(loop: Loop) -> None:
    with loop.connect() as agent:
        agent.sendall(b"one\ntwo\nthr")
        loop.turn()
        assert loop.agents.lines() == [b"two"]
        agent.sendall(b"ee\n")
        loop.turn()
        assert loop.agents.lines() == [b"three"]
        assert loop.agents.lines() == []


def test_each_agent_gets_each_line_and_a_new_one_is_known(loop: Loop) -> None:
    with loop.connect() as one, loop.connect() as other:
        assert loop.agents.new()
        loop.agents.broadcast(b"state\n")
        assert not loop.agents.new()
        assert [agent.recv(64) for agent in (one, other)] == [b"state\n", b"state\n"]


def test_an_agent_that_is_gone_disturbs_no_other(loop: Loop) -> None:
    with loop.connect() as stays:
        loop.connect().close()
        loop.turn()
        loop.agents.broadcast(b"state\n")
        assert stays.recv(64) == b"state\n"


def test_an_agent_that_does_not_read_is_dropped_and_may_come_again(loop: Loop) -> None:
    line = b"x" * (1 << 20) + b"\n"
    with loop.connect() as stuck, loop.connect() as reads:
        for _ in range(64):
            loop.agents.broadcast(line)
            while True:
                try:
                    if not reads.recv(1 << 22):
                        raise AssertionError("the agent that reads was dropped")
                except BlockingIOError:
                    break
        stuck.settimeout(10)
        while stuck.recv(1 << 22):
            pass
    with loop.connect() as again:
        assert loop.agents.new()
        loop.agents.broadcast(b"state\n")
        assert again.recv(64) == b"state\n"


def test_a_socket_that_was_taken_away_is_made_again_and_connections_stay(loop: Loop) -> None:
    with loop.connect() as before:
        loop.path.unlink()
        assert not loop.agents.reachable()
        loop.agents.listen_again()
        assert loop.agents.reachable()
        with loop.connect() as after:
            loop.agents.broadcast(b"state\n")
            assert [agent.recv(64) for agent in (before, after)] == [b"state\n", b"state\n"]
