"""rtnetlink by hand, for what must be quick: one request, one answer.

pyroute2 takes 0.2 s to import and 1 ms for a socket, which is much at a pod's start and at a failover; what needs
more than a message or two goes through :mod:`cni.kernel.netlink`.
"""

from __future__ import annotations

import os
import socket
import struct

# linux/netlink.h
NETLINK_ROUTE = 0
NLMSG_ERROR = 2
NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence, port."""


class Socket:
    """Opened in the network namespace of the calling thread; serves one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
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
