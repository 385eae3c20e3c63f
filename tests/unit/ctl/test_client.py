"""One request of ``egressctl`` to the agent: its answer, or why there is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni import contract
from gateway_agent.ctl import client
from gateway_agent.ctl.client import NoAnswer


class Server:
    """A socket that answers each request with the same bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer = b"{}"
        self.asked: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                parts = []
                while part := peer.recv(1 << 16):
                    parts.append(part)
                self.asked.append(b"".join(parts))
                peer.sendall(self.answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "agent.sock")
    yield server
    server.close()


def test_the_call_and_its_arguments_go_as_one_request(server: Server) -> None:
    server.answer = b'{"node": "w1"}'
    assert client.ask(server.path, "explain", pod="prod/web-0") == {"node": "w1"}
    assert server.asked == [contract.CONTROL + b'\0{"call": "explain", "pod": "prod/web-0"}']


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        (b'{"error": "no such pod", "hint": "egressctl pods"}', "no such pod", "egressctl pods"),
        (b'{"error": "no such pod"}', "no such pod", ""),
        (b"[]", "the answer is no object", ""),
    ],
)
def test_a_refusal_has_its_hint(server: Server, answer: bytes, message: str, hint: str) -> None:
    server.answer = answer
    with pytest.raises(NoAnswer) as refused:
        client.ask(server.path, "status")
    assert (str(refused.value), refused.value.hint) == (message, hint)


@pytest.mark.parametrize("answer", [b"", b'{"node": "w'])
def test_an_agent_that_dies_while_it_answers_gives_no_answer(server: Server, answer: bytes) -> None:
    server.answer = answer
    with pytest.raises(NoAnswer, match="ended its answer early"):
        client.ask(server.path, "status")


def test_without_an_agent_the_error_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer) as refused:
        client.ask(tmp_path / "agent.sock", "status")
    assert str(tmp_path / "agent.sock") in str(refused.value)
    assert "is egress-gateway-agent running?" in refused.value.hint


def test_a_request_that_the_agent_would_not_take_is_not_sent(server: Server) -> None:
    with pytest.raises(NoAnswer, match="MiB"):
        client.ask(server.path, "diff", files={"a.yaml": "x" * contract.MAX_REQUEST_BYTES})
    assert server.asked == []
