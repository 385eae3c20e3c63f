"""Flows from a pod of the data path's lab to its outside service, and what their packets cost, in one process.

The kernel forwards a packet before the call that sends it returns, so the time of the call is what the whole path
costs, all machines of the lab included.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ..lab.namespace import Namespace
from ..netns.datapath_lab import SERVICE

PAYLOAD = bytes(16)
"""Content of a small datagram."""
CHUNK = bytes(1 << 17)
SAMPLE_PACKETS = 300
SAMPLES = 10


@dataclass
class Datagrams:
    """Connected UDP sockets of a pod, and the service's socket that answers them."""

    clients: Sequence[socket.socket]
    sink: socket.socket
    sources: Sequence[tuple[str, int]]
    """The address of each client, as the service sees it."""

    def out_ns(self) -> float:
        """Return what a packet to the service costs, nanoseconds: the fastest of some samples."""
        return _fastest([partial(client.send, PAYLOAD) for client in self.clients], [self.sink])

    def back_ns(self) -> float:
        """Return what an answer costs, nanoseconds."""
        calls = [partial(self.sink.sendto, PAYLOAD, source) for source in self.sources]
        return _fastest(calls, self.clients)

    def close(self) -> None:
        for each in (*self.clients, self.sink):
            each.close()


def datagrams(pod: Namespace, outside: Namespace, flows: int, port: int) -> Datagrams:
    """Return flows that are known on the whole way: each has been answered once."""
    sink = outside.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind((SERVICE, port))
    sink.settimeout(5)
    clients, sources = [], []
    for _ in range(flows):
        client = pod.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(5)
        client.connect((SERVICE, port))
        clients.append(client)
        client.send(PAYLOAD)
        sources.append(sink.recvfrom(100)[1])
        sink.sendto(PAYLOAD, sources[-1])
        client.recv(100)
        client.send(PAYLOAD)
        sink.recv(100)
    return Datagrams(clients, sink, sources)


def _fastest(calls: Sequence[Callable[[], object]], receivers: Sequence[socket.socket]) -> float:
    best, place = float("inf"), 0
    for _ in range(SAMPLES):
        turn = [calls[(place + each) % len(calls)] for each in range(SAMPLE_PACKETS)]
        place += SAMPLE_PACKETS
        began = time.perf_counter_ns()
        for call in turn:
            call()
        best = min(best, (time.perf_counter_ns() - began) / SAMPLE_PACKETS)
        _drain(receivers)
    return best


def _drain(receivers: Sequence[socket.socket]) -> None:
    for receiver in receivers:
        receiver.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                receiver.recv(100)
        receiver.settimeout(5)


@dataclass
class Streams:
    """TCP connections of a pod to the service; both ends are sockets of this process."""

    clients: Sequence[socket.socket]
    servers: Sequence[socket.socket]

    def out(self, seconds: float) -> float:
        """Return the throughput to the service, bits in a second."""
        return _throughput(self.clients, self.servers, seconds)

    def back(self, seconds: float) -> float:
        """Return the throughput from the service."""
        return _throughput(self.servers, self.clients, seconds)

    def round_trip_ns(self, times: int) -> float:
        """Return the time of a byte there and one back, nanoseconds: the fastest of some samples."""
        client, server = self.clients[0], self.servers[0]
        best = float("inf")
        for _ in range(SAMPLES):
            began = time.perf_counter_ns()
            for _ in range(times):
                client.send(b"x")
                server.recv(1)
                server.send(b"y")
                client.recv(1)
            best = min(best, (time.perf_counter_ns() - began) / times)
        return best


@contextlib.contextmanager
def streams(pod: Namespace, outside: Namespace, flows: int, port: int) -> Iterator[Streams]:
    """Yield open connections; behind the block they end at once, with all that was not sent yet."""
    clients, servers = [], []
    with outside.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((SERVICE, port))
        listener.listen(flows)
        for _ in range(flows):
            client = pod.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.settimeout(5)
            client.connect((SERVICE, port))
            clients.append(client)
            servers.append(listener.accept()[0])
    for each in (*clients, *servers):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        yield Streams(clients, servers)
    finally:
        for each in (*clients, *servers):
            each.close()


def _throughput(
    senders: Sequence[socket.socket], receivers: Sequence[socket.socket], seconds: float
) -> float:
    """Return what arrives in a second, bits. A child process sends; this one receives until it has read everything."""
    child = os.fork()
    if not child:
        _send(senders, seconds)
        os._exit(0)
    received, began = _receive(receivers, child)
    return received * 8 / (time.monotonic() - began)


def _send(senders: Sequence[socket.socket], seconds: float) -> None:
    ends = time.monotonic() + seconds
    with selectors.DefaultSelector() as ready:
        for each in senders:
            each.setblocking(False)
            ready.register(each, selectors.EVENT_WRITE)
        while time.monotonic() < ends:
            for key, _ in ready.select(0.1):
                with contextlib.suppress(BlockingIOError):
                    key.fileobj.send(CHUNK)  # type: ignore[union-attr]


def _receive(receivers: Sequence[socket.socket], child: int) -> tuple[int, float]:
    """Return the bytes, and when the first came."""
    buffer, received, began, sending = bytearray(1 << 20), 0, time.monotonic(), True
    with selectors.DefaultSelector() as ready:
        for each in receivers:
            each.setblocking(False)
            ready.register(each, selectors.EVENT_READ)
        while True:
            found = ready.select(0.05)
            for key, _ in found:
                with contextlib.suppress(BlockingIOError):
                    received += key.fileobj.recv_into(buffer)  # type: ignore[union-attr]
            if sending:
                sending = os.waitpid(child, os.WNOHANG)[0] == 0
            elif not found:
                break
    for each in receivers:
        each.setblocking(True)
    return received, began
