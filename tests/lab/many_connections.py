"""Many short TCP connections: a server that keeps a list of them, and a client that opens them at a rate.

``python -m tests.lab.many_connections serve ADDRESS PORT…`` prints a line when it listens, and the list as JSON when
its standard input closes. ``… open ADDRESS NUMBER RATE PORT…`` opens them in turn, and prints how many were answered
and how long it took.
"""

from __future__ import annotations

import contextlib
import json
import resource
import selectors
import socket
import struct
import sys
import time

RESETTING = struct.pack("ii", 1, 0)
PATIENCE_S = 45.0
"""Seconds in which the answers come after the last connection was due. On a busy machine it is opened late."""
BACKLOG = 4096


def _socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)


def serve(address: str, ports: list[int]) -> None:
    selector = selectors.DefaultSelector()
    for port in ports:
        listener = _socket(address)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, port)
    selector.register(sys.stdin, selectors.EVENT_READ, 0)
    print("ready", flush=True)
    seen: list[tuple[str, int, int]] = []
    held: list[socket.socket] = []
    while True:
        for key, _ in selector.select():
            if not key.data:
                print(json.dumps(seen), flush=True)
                return
            with contextlib.suppress(BlockingIOError):
                while True:
                    connection, peer = key.fileobj.accept()  # type: ignore[union-attr]
                    seen.append((peer[0], peer[1], key.data))
                    connection.send(b".")
                    # The client ends it.
                    held.append(connection)
                    if len(held) > 1000:
                        held.pop(0).close()


def open_all(address: str, number: int, rate: float, ports: list[int]) -> None:
    selector = selectors.DefaultSelector()
    opened = answered = waiting = 0
    begin = time.monotonic()
    deadline = begin + number / rate + PATIENCE_S
    while (opened < number or waiting) and time.monotonic() < deadline:
        due = min(number, int((time.monotonic() - begin) * rate))
        for turn in range(opened, due):
            connection = _socket(address)
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETTING)
            connection.connect_ex((address, ports[turn % len(ports)]))
            selector.register(connection, selectors.EVENT_READ)
            waiting += 1
        opened = max(opened, due)
        for key, _ in selector.select(0.001):
            with contextlib.suppress(OSError):
                answered += key.fileobj.recv(1) == b"."  # type: ignore[union-attr]
            selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
            waiting -= 1
    print(json.dumps({"answered": answered, "seconds": time.monotonic() - begin}), flush=True)


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    what, address, *rest = sys.argv[1:]
    if what == "serve":
        serve(address, list(map(int, rest)))
    else:
        open_all(address, int(rest[0]), float(rest[1]), list(map(int, rest[2:])))


if __name__ == "__main__":
    main()
