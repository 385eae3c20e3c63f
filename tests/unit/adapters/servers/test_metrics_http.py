"""The HTTP server, with real clients."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway_agent.adapters.servers.metrics_http import ANSWER_TIMEOUT_S, MetricsServer
from gateway_agent.lease.ipc import Conflict
from gateway_agent.manifests.model import Problem
from gateway_agent.show.metrics.families import Observation, families
from gateway_agent.show.status import status

from ....lab.free_port import free_port
from ....lab.waiting import until
from ...show.metrics.test_families import ADDRESSES, AT_S, FIRST, MAC, keeper, view

T = TypeVar("T")
HOST = "127.0.0.1"
PATHS = ("/", "/metrics", "/healthz", "/readyz", "/status")
SEEN = Observation("g1", view())


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    text: str


def ask(port: int, path: str, method: str = "GET", host: str = HOST, body: bytes | None = None) -> Reply:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read().decode())


def listens(port: int, host: str = HOST) -> bool:
    socket.create_connection((host, port), timeout=5).close()
    return True


@contextlib.asynccontextmanager
async def served(server: MetricsServer, port: int, host: str = HOST) -> AsyncIterator[None]:
    task = asyncio.create_task(server.run())
    try:
        await asyncio.to_thread(until, lambda: listens(port, host), "it listens")
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def during(client: Callable[[int], T], seen: Observation = SEEN, deadline: float = 5.0) -> T:
    """Return the result of a client while the agent's loop is free."""
    port = free_port(HOST)

    async def scenario() -> T:
        async with served(MetricsServer((HOST, port), lambda: seen, deadline), port):
            return await asyncio.to_thread(client, port)

    return asyncio.run(scenario())


@contextlib.contextmanager
def connected(port: int, text: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection((HOST, port), timeout=5) as client:
        client.sendall(text)
        yield client


def everything(client: socket.socket) -> bytes:
    parts: list[bytes] = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_metrics_are_what_the_core_says_in_the_form_of_prometheus() -> None:
    conflict = Conflict(FIRST, ADDRESSES[0], MAC, "eth1", AT_S)
    seen = Observation("g1", view(keeper(conflicts=(conflict,))), changes={FIRST: 3})
    reply = during(lambda port: ask(port, "/metrics"), seen)
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    everything = list(text_string_to_metric_families(reply.text))
    assert "process_resident_memory_bytes" in {family.name for family in everything}
    read = [family for family in everything if not family.name.startswith("process_")]
    said = {(s.name, frozenset(s.labels.items()), s.value) for family in read for s in family.samples}
    meant = families(seen)
    assert said == {
        (f.name + s.suffix, frozenset(s.labels.items()), float(s.value)) for f in meant for s in f.samples
    }
    assert {family.name: family.type for family in read} == {
        f.name.removesuffix("_total"): f.kind for f in meant
    }
    line = f'egress_gateway_conflict{{interface="eth1",ip="{ADDRESSES[0]}",mac="{MAC}",node="g1"}} 1.0'
    assert line in reply.text.splitlines()


def test_status_is_that_of_egressctl_and_the_page_shows_it() -> None:
    raw, page = during(lambda port: (ask(port, "/status"), ask(port, "/")))
    assert json.loads(raw.text) == status(view())
    assert (raw.status, raw.headers["Content-Type"]) == (200, "application/json")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert ADDRESSES[0] in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("unready", "code", "text"),
    [("", 200, "ok\n"), ("nft: busy", 503, "nft: busy\n"), ("nft: \x1b[2J", 503, "nft: \\x1b[2J\n")],
)
def test_readiness_has_its_reason(unready: str, code: int, text: str) -> None:
    ready, healthy = during(
        lambda port: (ask(port, "/readyz"), ask(port, "/healthz")), replace(SEEN, unready=unready)
    )
    assert (ready.status, ready.text) == (code, text)
    assert (healthy.status, healthy.text) == (200, "ok\n")


def test_before_the_store_has_been_read() -> None:
    seen = Observation("g1", None, "the agent is starting")
    replies = during(lambda port: {path: ask(port, path) for path in PATHS}, seen)
    assert {path: reply.status for path, reply in replies.items()} == {
        "/": 503, "/metrics": 200, "/healthz": 200, "/readyz": 503, "/status": 503,
    }  # fmt: skip
    assert all("the agent is starting" in replies[path].text for path in ("/", "/readyz", "/status"))
    assert 'egress_gateway_agent_ready{node="g1"} 0.0' in replies["/metrics"].text


def test_a_name_that_is_not_utf8_is_shown() -> None:
    seen = replace(SEEN, view=replace(view(), problems=(Problem(os.fsdecode(b"\xff.yaml"), "", "is bad"),)))
    replies = during(lambda port: [ask(port, path) for path in PATHS], seen)
    assert [reply.status for reply in replies] == [200] * len(PATHS)
    assert "\\udcff.yaml: is bad" in replies[0].text


def test_head_is_get_without_a_body() -> None:
    def client(port: int) -> None:
        for path in PATHS:
            whole, head = ask(port, path), ask(port, path, "HEAD")
            assert int(whole.headers.pop("Content-Length")) == len(whole.text.encode())
            # The processor time of this process has another number of digits a moment later.
            length = int(head.headers.pop("Content-Length"))
            assert length == len(whole.text.encode()) or path == "/metrics"
            assert (head.status, head.text, head.headers) == (whole.status, "", whole.headers)

    during(client)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"])
def test_other_methods_are_refused(method: str) -> None:
    reply = during(lambda port: ask(port, "/metrics", method, body=bytes(200_000)))
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/metricsx", "/metrics/", "//", "/../etc/passwd", "*", "/%6detrics"])
def test_unknown_paths(path: str) -> None:
    assert during(lambda port: ask(port, path)).status == 404


def test_a_page_of_another_name_gets_nothing() -> None:
    """A page on the web whose name leads here would else read it by the browser of who looks at the page."""

    def client(port: int, host: str) -> bytes:
        with connected(port, f"GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()) as connection:
            return everything(connection)

    answers = during(
        lambda port: [client(port, host) for host in ("evil.example", "10.0.0.7:9479", "localhost")]
    )
    assert [answer.split(b" ")[1] for answer in answers] == [b"421", b"200", b"200"]
    assert b"evil.example is not served here" in answers[0]
    assert b"egressIPs" not in answers[0]


def test_a_query_is_ignored() -> None:
    assert during(lambda port: ask(port, "/healthz?verbose=1")).status == 200


def test_a_loop_that_hangs_is_reported_and_does_not_stop_the_server() -> None:
    port = free_port(HOST)

    async def scenario() -> list[Reply]:
        async with served(MetricsServer((HOST, port), lambda: SEEN), port):
            # Asked from within the loop, which cannot answer before this has ended.
            begun = time.monotonic()
            hanging = [ask(port, path) for path in ("/healthz", "/metrics")]
            assert time.monotonic() - begun < 2 * len(hanging) * ANSWER_TIMEOUT_S
            assert ask(port, "/nothing").status == 404
            return [*hanging, await asyncio.to_thread(ask, port, "/healthz")]

    *hanging, after = asyncio.run(scenario())
    assert {reply.status for reply in hanging} == {503}
    assert {reply.text for reply in hanging} == {"the agent's event loop has not answered within 1 s\n"}
    assert after.status == 200


def test_a_question_that_fails_is_an_answer_and_health_does_not_ask_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port(HOST)

    def look() -> Observation:
        raise ValueError("a bug of ours")

    async def scenario() -> list[int]:
        async with served(MetricsServer((HOST, port), look), port):
            return [(await asyncio.to_thread(ask, port, path)).status for path in PATHS]

    assert asyncio.run(scenario()) == [500, 500, 200, 500, 500]
    assert "a bug of ours" in caplog.text


def test_a_port_in_use_is_a_problem_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with socket.create_server((HOST, 0)) as other:
            port = int(other.getsockname()[1])
            server = MetricsServer((HOST, port), lambda: SEEN)
            task = asyncio.create_task(server.run())
            await asyncio.to_thread(until, lambda: server.problems, "it is told")
            assert str(server.problems[0]).startswith(
                f"metrics: cannot listen on {HOST}:{port}: Address already in use"
            )
        await asyncio.to_thread(until, lambda: ask(port, "/healthz").status == 200, "it listens")
        assert server.problems == ()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert caplog.text.count("Address already in use") == 1


def test_an_address_that_the_node_does_not_have_is_a_problem() -> None:
    async def scenario() -> str:
        server = MetricsServer(("203.0.113.9", 9479), lambda: SEEN)
        task = asyncio.create_task(server.run())
        await asyncio.to_thread(until, lambda: server.problems, "it is told")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return server.problems[0].message

    assert asyncio.run(scenario()) == "cannot listen on 203.0.113.9:9479: Cannot assign requested address"


def test_ipv6() -> None:
    port = free_port("::1")

    async def scenario() -> Reply:
        async with served(MetricsServer(("::1", port), lambda: SEEN), port, "::1"):
            return await asyncio.to_thread(ask, port, "/metrics", "GET", "::1")

    assert asyncio.run(scenario()).status == 200


def test_who_comes_next_listens_at_once_although_clients_are_connected() -> None:
    port = free_port(HOST)

    async def scenario() -> list[int]:
        codes = []
        for _ in range(3):
            async with served(MetricsServer((HOST, port), lambda: SEEN), port):
                client = socket.create_connection((HOST, port), timeout=5)
                codes.append((await asyncio.to_thread(ask, port, "/healthz")).status)
            assert not [thread for thread in threading.enumerate() if thread.name == "metrics"]
            # The server was the first to close: its end of the connection stays in the kernel for a while.
            assert await asyncio.to_thread(everything, client) == b""
            client.close()
        return codes

    began = time.monotonic()
    assert asyncio.run(scenario()) == [200] * 3
    assert time.monotonic() - began < 5


def test_a_program_that_is_started_does_not_inherit_the_socket() -> None:
    def client(port: int) -> tuple[int, subprocess.Popen[bytes]]:
        return port, subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)

    port, program = during(client)
    with program, pytest.raises(ConnectionRefusedError):
        listens(port)
