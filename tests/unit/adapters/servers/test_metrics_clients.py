"""What clients can do to the HTTP server, on the wire."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time

import pytest

from gateway_agent.adapters.servers import metrics_http
from gateway_agent.adapters.servers.metrics_http import MAX_CONNECTIONS, MAX_REQUEST_BYTES, RETRY_S

from ....lab.free_port import free_port
from ....lab.waiting import until
from .test_metrics_http import HOST, ask, connected, during, everything

FAST_S = 0.3
"""Seconds that a connection may last, where a test waits for its end."""


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (b"host:evil.example\t\r\n", b"421"),
        (b"HOST: evil.example\r\n", b"421"),
        (b"Host: localhost\r\nHost: evil.example\r\n", b"421"),
        (b"Host: evil.example\r\nHost: localhost\r\n", b"421"),
        (b"Host:\r\n", b"421"),
        (b"Host : evil.example\r\n", b"400"),
        (b"Host:\r\n evil.example\r\n", b"400"),
        (b"Host: localhost\r\n evil.example\r\n", b"400"),
        (b"X-Host: evil.example\r\nReferer: http://evil.example\r\n", b"200"),
    ],
)
def test_each_spelling_of_the_host_is_seen(fields: bytes, code: bytes) -> None:
    def client(port: int) -> bytes:
        with connected(port, b"GET /status HTTP/1.1\r\n" + fields + b"\r\n") as connection:
            return everything(connection)

    assert during(client).split(b" ")[1] == code


@pytest.mark.parametrize(
    ("request_text", "code"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /healthz\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * (MAX_REQUEST_BYTES - 100) + b"\r\n\r\n", b"200"),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * MAX_REQUEST_BYTES + b"\r\n\r\n", b"431"),
        (b"GET /" + b"x" * MAX_REQUEST_BYTES + b" HTTP/1.1\r\n\r\n", b"431"),
    ],
)
def test_requests_on_the_wire(request_text: bytes, code: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a client sends, it writes no line into the agent's log."""

    def client(port: int) -> bytes:
        with connected(port, request_text) as connection:
            return everything(connection)

    with caplog.at_level(logging.INFO):
        assert during(client).split(b" ")[1] == code
    assert [record.getMessage() for record in caplog.records if record.name != metrics_http.__name__] == []


@pytest.mark.parametrize("part", [b"x" * 1024, b"X: y\r\n" * 100], ids=["one field", "many fields"])
def test_a_head_without_end_is_cut_off(part: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Long before the deadline: what has been sent is in the agent's memory."""

    def client(port: int) -> bytes:
        with connected(port, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ") as connection:
            # The kernel takes more than the server reads, but not this much.
            with contextlib.suppress(ConnectionError):
                for _ in range(1 + (64 << 20) // len(part)):
                    connection.sendall(part)
                pytest.fail("the server reads on")
            return everything(connection)

    began = time.monotonic()
    with caplog.at_level(logging.INFO):
        assert during(client, deadline=60) == b""
    assert time.monotonic() - began < 30
    assert [record.getMessage() for record in caplog.records if record.name != metrics_http.__name__] == []


def test_who_sends_nothing_or_does_not_hang_up_is_let_go() -> None:
    def client(port: int) -> list[bytes]:
        with (
            connected(port) as silent,
            connected(port, b"GET / HTTP/1.1\r\n") as half,
            connected(port) as lasting,
        ):
            lasting.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            return [everything(connection) for connection in (silent, half, lasting)]

    *unasked, answered = during(client, deadline=FAST_S)
    assert unasked == [b"", b""]
    assert answered.startswith(b"HTTP/1.1 200 OK")


def test_slow_clients_hold_nothing_up() -> None:
    """However many there are; the oldest makes room."""

    def client(port: int) -> None:
        # Threads that other tests of this process have left are not the server's.
        before = threading.active_count()
        with contextlib.ExitStack() as stack:
            slow = [
                stack.enter_context(connected(port, b"GET / HTTP/1.1\r\n"))
                for _ in range(2 * MAX_CONNECTIONS)
            ]
            assert ask(port, "/healthz").status == 200
            assert everything(slow[0]) == b""
            assert threading.active_count() <= before

    during(client, deadline=60)


NO_DESCRIPTOR_LEFT = """
import asyncio, os, resource, sys, time
from gateway_agent.adapters.servers.metrics_http import MetricsServer
from gateway_agent.show.metrics.families import Observation

async def main():
    server = asyncio.create_task(MetricsServer(("127.0.0.1", int(sys.argv[1])), lambda: Observation("g1", None)).run())
    print("started", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        before = time.process_time()
    print("none left", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(time.process_time() - before, flush=True)
    for descriptor in held:
        os.close(descriptor)
    await asyncio.to_thread(sys.stdin.readline)
    server.cancel()

asyncio.run(main())
"""


HEALTH = b"GET /healthz HTTP/1.0\r\n\r\n"


def asked_to_the_end(port: int) -> bool:
    """Return True if the server has answered and closed its descriptor of the connection."""
    with connected(port, HEALTH) as client:
        return everything(client).startswith(b"HTTP/1.1 200 OK")


def test_a_process_without_a_descriptor_left_does_not_spin() -> None:
    """And answers when it has one again."""
    port = free_port(HOST)
    with subprocess.Popen(
        [sys.executable, "-c", NO_DESCRIPTOR_LEFT, str(port)], text=True, bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == "started\n"
        until(lambda: asked_to_the_end(port), "it answers")
        process.stdin.write("\n")
        assert process.stdout.readline() == "none left\n"
        with connected(port, HEALTH) as client:
            client.settimeout(RETRY_S)
            with pytest.raises(TimeoutError):
                client.recv(1)
            process.stdin.write("\n")
            assert float(process.stdout.readline()) < RETRY_S / 4
            client.settimeout(5)
            assert everything(client).startswith(b"HTTP/1.1 200 OK")
        process.stdin.write("\n")
        assert process.stderr.read() == ""
