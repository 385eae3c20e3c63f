"""The stream of what changes on the page, on the wire."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateway_agent.adapters.servers import event_streams
from gateway_agent.adapters.servers.metrics_http import MAX_CONNECTIONS, MetricsServer
from gateway_agent.manifests.model import Problem
from gateway_agent.show.metrics.families import Observation

from ....lab.free_port import free_port
from ....lab.waiting import until
from .test_metrics_http import HOST, SEEN, ask, connected, served

REQUEST = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


def events(client: socket.socket) -> Iterator[dict[str, str]]:
    """Yield the events as they come."""
    client.settimeout(10)
    with client.makefile("rb") as lines:
        for line in lines:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


class Agent:
    """What the agent knows, and how often it was looked at."""

    def __init__(self) -> None:
        self.seen: Observation = SEEN
        self.looks = 0

    def look(self) -> Observation:
        self.looks += 1
        return self.seen

    def trouble(self, text: str) -> None:
        view = self.seen.view
        assert view is not None
        self.seen = replace(self.seen, view=replace(view, problems=(Problem("a.yaml", "", text),)))


def during(client: Callable[[int, Agent], Any], deadline: float = 5.0) -> Any:
    port, agent = free_port(HOST), Agent()

    async def scenario() -> Any:
        async with served(MetricsServer((HOST, port), agent.look, deadline), port):
            return await asyncio.to_thread(client, port, agent)

    return asyncio.run(scenario())


def test_first_all_then_only_what_has_changed() -> None:
    def client(port: int, agent: Agent) -> None:
        with connected(port, REQUEST) as connection:
            stream = events(connection)
            first = next(stream)
            assert {
                "verdict",
                "about",
                "problems",
                "egress",
                "nodes",
                "changes",
                "pods",
                "members",
            } <= first.keys()
            agent.trouble("the disk is full")
            found: dict[str, str] = {}
            while "problems" not in found:
                found = next(stream)
            assert found.keys() <= {"verdict", "problems", "about"}
            assert "the disk is full" in found["problems"]

    during(client)


def test_a_stream_outlives_the_deadline_of_a_connection() -> None:
    def client(port: int, agent: Agent) -> None:
        with connected(port, REQUEST) as connection:
            stream = events(connection)
            next(stream)
            with connected(port) as silent:
                assert silent.recv(1) == b""
            agent.trouble("the disk is full")
            assert any("the disk is full" in event.get("problems", "") for event in stream)

    during(client, deadline=0.3)


def test_many_who_look_cost_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "INTERVAL_S", 60.0)

    def client(port: int, agent: Agent) -> int:
        before = agent.looks
        clients = [socket.create_connection((HOST, port), timeout=5) for _ in range(20)]
        for one in clients:
            one.sendall(REQUEST)
        assert all("verdict" in next(events(one)) for one in clients)
        for one in clients:
            one.close()
        return agent.looks - before

    assert during(client) == 1


def test_streams_are_connections_of_which_the_oldest_ends() -> None:
    def client(port: int, _: Agent) -> None:
        clients = [socket.create_connection((HOST, port), timeout=10) for _ in range(MAX_CONNECTIONS)]
        for one in clients:
            one.sendall(REQUEST)
            next(events(one))
        assert ask(port, "/healthz").status == 200
        with clients[0] as oldest, oldest.makefile("rb") as rest:
            rest.read()
        assert next(events(clients[-1]))
        for one in clients:
            one.close()

    during(client)


def test_a_reader_that_goes_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "INTERVAL_S", 0.01)

    def client(port: int, agent: Agent) -> None:
        with connected(port, REQUEST) as connection:
            next(events(connection))

        def rests() -> bool:
            before = agent.looks
            threading.Event().wait(0.1)
            return agent.looks == before

        until(rests, "nobody is looked for")

    during(client)


def test_a_page_of_another_name_gets_no_events() -> None:
    def client(port: int, _: Agent) -> bytes:
        with connected(port, REQUEST.replace(b"localhost", b"evil.example")) as connection:
            return connection.recv(100)

    assert during(client).split(b" ")[1] == b"421"
