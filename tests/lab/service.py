"""The outside service: says which client address it sees, and lets in only what is on its whitelist.

``python -m tests.lab.service [--address A] [--whitelist FILE] PORT…`` listens on TCP and UDP. It greets a
TCP client with ``welcome ADDRESS`` and echoes what follows, or says ``refused ADDRESS`` and hangs up; a
datagram is answered with the same words before its own. Without a whitelist everybody is welcome.
"""

from __future__ import annotations

import argparse
import resource
import selectors
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from .witness import run_in_real_time

IP_FREEBIND = 15
"""``<linux/in.h>``: an address that this machine may hold only later."""
SO_RCVBUFFORCE = 33
"""``<asm-generic/socket.h>``"""
BUFFER = 4 << 20
"""Bytes of datagrams that wait at most: some seconds of one a millisecond."""
BACKLOG = 4096
"""Largest backlog that the kernel permits (``net.core.somaxconn``): a thousand clients may come at once."""


class Whitelist:
    """The addresses in a file, one a line, read again whenever it has changed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = (0, 0)
        self._addresses: frozenset[str] = frozenset()

    def verdict(self, address: str) -> str:
        return "welcome" if self._path is None or address in self._current(self._path) else "refused"

    def _current(self, path: Path) -> frozenset[str]:
        state = path.stat()
        if (state.st_ino, state.st_mtime_ns) != self._seen:
            self._seen = (state.st_ino, state.st_mtime_ns)
            self._addresses = frozenset(path.read_text().split())
        return self._addresses


class Service:
    def __init__(self, address: str, ports: list[int], whitelist: Whitelist) -> None:
        self._whitelist = whitelist
        self._selector = selectors.DefaultSelector()
        for port in ports:
            self._watch(_bound(socket.SOCK_STREAM, address, port), self._accept)
            self._watch(_bound(socket.SOCK_DGRAM, address, port), self._answer)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                key.data(key.fileobj)

    def _watch(self, sock: socket.socket, handler: Callable[[socket.socket], None]) -> None:
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, handler)

    def _accept(self, listener: socket.socket) -> None:
        connection, (address, port, *_) = listener.accept()
        verdict = self._whitelist.verdict(address)
        print(f"{verdict} {address}:{port}", file=sys.stderr, flush=True)
        connection.sendall(f"{verdict} {address}\n".encode())
        if verdict == "refused":
            connection.close()
        else:
            self._watch(connection, self._echo)

    def _echo(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
            if data:
                connection.sendall(data)
                return
        except OSError as error:
            print(f"connection lost: {error}", file=sys.stderr, flush=True)
        self._selector.unregister(connection)
        connection.close()

    def _answer(self, sock: socket.socket) -> None:
        # Between question and answer the machine may lose the address: that must not end the service.
        try:
            data, sender = sock.recvfrom(65536)
            sock.sendto(f"{self._whitelist.verdict(sender[0])} {sender[0]} ".encode() + data, sender)
        except OSError as error:
            print(f"datagram lost: {error}", file=sys.stderr, flush=True)


def _bound(kind: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_DGRAM:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    else:
        sock.listen(BACKLOG)
    return sock


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.lab.service")
    parser.add_argument("--address", default="0.0.0.0")
    parser.add_argument("--whitelist", type=Path)
    parser.add_argument("ports", metavar="PORT", type=int, nargs="+")
    options = parser.parse_args()
    # A thousand connections are more than many a default; the hard limit is the most that needs no right.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Who asks each millisecond does so in real time: an answer that waits for a processor would count as lost.
    run_in_real_time()
    service = Service(options.address, options.ports, Whitelist(options.whitelist))
    print("ready", flush=True)
    service.run()


if __name__ == "__main__":
    main()
