"""rtnetlink by hand, for what must be quick: one request, one answer.

pyroute2 takes 0.2 s to import and 1 ms for a socket, which is much at a pod's start and at a failover; what needs
more than a message or two goes through :mod:`cni.kernel.rtnl`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable

# linux/netlink.h
NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_DUMP = 0x300
DUMPS = 3
"""How often a dump is begun again because what it lists has changed meanwhile."""
SOL_NETLINK, NETLINK_GET_STRICT_CHK = 270, 12
HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence, port."""


class Socket:
    """Opened in the network namespace of the calling thread; serves one thread at a time."""

    def __init__(self, family: int = NETLINK_ROUTE, strict: bool = False) -> None:
        """``strict``: the kernel lists only what the header of a request for a listing names; else it lists all."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        if strict:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, flags: int, body: bytes) -> bytes:
        """The body of the answer; empty where the kernel only says that it is done. Raises OSError."""
        self._sequence += 1
        length = HEADER.size + len(body)
        self._socket.send(HEADER.pack(length, kind, NLM_F_REQUEST | flags, self._sequence, 0) + body)
        while True:
            data = self._socket.recv(1 << 16)
            length, answer, _, sequence, _ = HEADER.unpack_from(data)
            if sequence != self._sequence:
                continue
            if answer != NLMSG_ERROR:
                return data[HEADER.size : length]
            (code,) = struct.unpack_from("=i", data, HEADER.size)
            if code:
                raise OSError(-code, os.strerror(-code))
            return b""

    def send(self, kind: int, bodies: Iterable[bytes]) -> None:
        """Several requests in one message, whose answers nobody waits for. Raises OSError."""
        data = b""
        for body in bodies:
            self._sequence += 1
            data += HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST, self._sequence, 0) + body
            data += bytes(-len(body) % 4)
        self._socket.send(data)

    def dump(self, kind: int, body: bytes, tries: int = DUMPS) -> list[tuple[int, bytes]]:
        """Types and bodies of all messages of a listing. Raises OSError."""
        for _ in range(tries):
            self._sequence += 1
            header = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0)
            self._socket.send(header + body)
            found, whole = self._listing()
            if whole:
                return found
        raise OSError(errno.EINTR, os.strerror(errno.EINTR))

    def _listing(self) -> tuple[list[tuple[int, bytes]], bool]:
        """The messages up to the end, and whether they show one state."""
        found: list[tuple[int, bytes]] = []
        whole = True
        while True:
            data = self._socket.recv(1 << 17)
            offset = 0
            while offset + HEADER.size <= len(data):
                length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
                body = data[offset + HEADER.size : offset + length]
                offset += max(length + 3 & ~3, HEADER.size)
                if sequence != self._sequence:
                    continue
                whole = whole and not flags & NLM_F_DUMP_INTR
                code = -struct.unpack_from("=i", body)[0] if kind in (NLMSG_ERROR, NLMSG_DONE) else 0
                if code > 0:
                    raise OSError(code, os.strerror(code))
                if kind == NLMSG_DONE:
                    return found, whole
                found.append((kind, body))


def attribute(kind: int, value: bytes) -> bytes:
    """Length, type, value, and padding to 4 bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Values by type; the flags in a type's two highest bits are left out."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[length + 3 & ~3 :]
    return found
