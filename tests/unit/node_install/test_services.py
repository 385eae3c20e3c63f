"""The wait for an agent, before a real HTTP server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gateway_agent.node_install import services
from gateway_agent.node_install.services import Failed


@contextmanager
def agent(*answers: tuple[int, str]) -> Iterator[tuple[str, int]]:
    """Yield the address of a server that gives these answers to ``/readyz``, the last one again and again."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield "127.0.0.1", server.server_port
        finally:
            server.shutdown()
            serving.join()


def test_the_wait_ends_when_the_agent_is_ready() -> None:
    with agent((503, "no plan yet"), (503, "no plan yet"), (200, "ok")) as address:
        assert 2 * services.POLL_S <= services.wait_ready(address, 30) < 30


def test_the_reason_of_an_agent_that_is_not_ready_is_shown() -> None:
    with agent((503, "the plugin is not used")) as address, pytest.raises(Failed) as failed:
        services.wait_ready(address, 0.1)
    assert str(failed.value) == "the agent is not ready after 0.1 s: the plugin is not used"
    assert "egressctl doctor" in failed.value.hint


def test_an_agent_that_does_not_listen_is_not_ready() -> None:
    with agent((200, "ok")) as address:
        pass
    with pytest.raises(Failed, match="Connection refused"):
        services.wait_ready(address, 0.1)


def test_a_program_that_is_missing_is_a_failed_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Failed, match="systemctl"):
        services.systemctl("daemon-reload")
    assert not services.is_active(services.AGENT)
