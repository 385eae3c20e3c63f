"""The configuration that a container runtime has loaded, read over CRI, and answers that are hostile."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.container_engines import cri, grpc_call
from gateway_agent.container_engines.cri import Loaded
from tests.lab.cri.containerd import stubs


def network(name: str, *types: str) -> dict[str, Any]:
    plugins = [{"Network": {"type": kind}, "Source": "{}"} for kind in types]
    return {"Config": {"Name": name, "Plugins": plugins}, "IFName": "eth0"}


def answer(*networks: dict[str, Any], status: str = "OK", **info: str) -> bytes:
    config = {"PluginConfDirs": ["/etc/cni/net.d"], "Networks": list(networks)}
    messages, _ = stubs()
    found = {"cniconfig": json.dumps(config), "lastCNILoadStatus": status, "config": "{}", **info}
    return bytes(messages.StatusResponse(info=found).SerializeToString(deterministic=True))


LO = network("cni-loopback", "loopback")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (answer(LO, network("net", "bridge", "egress-gateway")),
         Loaded("net", ("bridge", "egress-gateway"), "/etc/cni/net.d")),
        (answer(LO), Loaded(directory="/etc/cni/net.d")),
        (answer(LO, status='"cni config load failed: no network config"'),
         Loaded(directory="/etc/cni/net.d", error="cni config load failed: no network config")),
        (answer(LO, network("a", "ptp"), network("b", "bridge")), Loaded("a", ("ptp",), "/etc/cni/net.d")),
        (answer(cniconfig="null", status="no file", config='{"cni": {"confDir": "/c"}}'),
         Loaded(directory="/c", error="no file")),
        (b"", None),
    ],
)  # fmt: skip
def test_what_is_reported(message: bytes, expected: Loaded | None) -> None:
    assert cri.of_answer(message) == expected


@given(st.binary() | st.recursive(st.none() | st.text(), lambda child: st.lists(child) | st.dictionaries(
    st.sampled_from(["PluginConfDirs", "Networks", "Config", "Plugins", "Network", "type"]), child)))  # fmt: skip
def test_a_strange_answer_ends_in_a_value_or_an_error(given: Any) -> None:
    messages, _ = stubs()
    whole = messages.StatusResponse(info={"cniconfig": json.dumps(given)}).SerializeToString() if not isinstance(
        given, bytes) else given  # fmt: skip
    with contextlib.suppress(ValueError):
        cri.of_answer(whole)


class _Runtime(grpc.GenericRpcHandler):
    """Answers ``Status`` with the bytes that it is given."""

    def __init__(self, answer: bytes) -> None:
        self.asked: list[bytes] = []
        self._answer = answer

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return grpc.unary_unary_rpc_method_handler(self._status) if details.method == cri.STATUS else None

    def _status(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked.append(request)
        return self._answer


@contextmanager
def serving(path: Path, runtime: _Runtime) -> Iterator[None]:
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((runtime,))
    server.add_insecure_port(f"unix://{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def test_a_grpc_server_is_asked(tmp_path: Path) -> None:
    """Also with an answer of many frames."""
    path = tmp_path / "s"
    runtime = _Runtime(answer(LO, network("net", "bridge"), more="x" * 1_000_000))
    with serving(path, runtime):
        assert cri.loaded(path) == Loaded("net", ("bridge",), "/etc/cni/net.d")
        messages, _ = stubs()
        [asked] = runtime.asked
        assert messages.StatusRequest.FromString(asked).verbose
        with pytest.raises(ValueError, match="refuses"):
            grpc_call.call(path, "/runtime.v1.RuntimeService/Other", b"")


def test_an_answer_that_is_too_large(tmp_path: Path) -> None:
    runtime = _Runtime(b"x" * (grpc_call.MAX_ANSWER_BYTES + 1))
    with serving(tmp_path / "s", runtime), pytest.raises(ValueError, match="more than"):
        cri.loaded(tmp_path / "s")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", "hung up"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no HTTP/2"),
        (b"\0\0\4\7\0\0\0\0\0abcd", "ended the call early"),
        (b"\0\0\1\0\1\0\0\0\1x", "no gRPC message"),
        (b"\0\0\0\1\5\0\0\0\1", "refuses"),
    ],
)
def test_a_server_of_another_kind(tmp_path: Path, said: bytes, message: str) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ValueError, match=message):
            cri.loaded(path)
        thread.join()
