"""Two machines on one wire, and a witness of every frame that arrives."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

from tests.lab.namespace import Namespace
from tests.lab.waiting import until

ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_MARK = b"\xff" * 6 + b"\x02mark!" + b"\x88\xb5"
"""The header of a frame with an experimental type (IEEE 802): no rule is about it."""

VIRTUAL = "172.16.0.50"
VIRTUAL6 = "2001:db8::50"


class Wire:
    """``near`` has 172.16.0.1/24 and 2001:db8::1/64 on ``eth1``, ``far`` has .2 and ::2; ``eth2`` has none."""

    def __init__(self, name: str) -> None:
        self.near = Namespace(f"{name}-near")
        self.far = Namespace(f"{name}-far")

    def create(self) -> None:
        for machine in (self.near, self.far):
            machine.create({"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/all/accept_dad": "0"})
        for device in ("eth1", "eth2"):
            self.near.ip(f"link add {device} type veth peer name {device} netns {self.far.name}")
        for number, machine in enumerate((self.near, self.far), 1):
            machine.ip("link set eth1 up", "link set eth2 up")
            machine.ip(f"address add 172.16.0.{number}/24 dev eth1")
            machine.ip(f"address add 2001:db8::{number}/64 dev eth1 nodad")

    def delete(self) -> None:
        self.near.delete()
        self.far.delete()

    def mac(self, machine: Namespace, device: str = "eth1") -> str:
        return machine.run("cat", f"/sys/class/net/{device}/address").strip()


@contextlib.contextmanager
def wire(name: str) -> Iterator[Wire]:
    made = Wire(name)
    made.delete()
    try:
        made.create()
        yield made
    finally:
        made.delete()


class Witness:
    """Collects what arrives at an interface, with its time."""

    def __init__(self, machine: Namespace, device: str = "eth1") -> None:
        self._socket = machine.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        machine.inside(lambda: self._socket.bind((device, ETH_P_ALL)))
        self._frames: list[tuple[int, bytes]] = []

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def frames(self) -> list[tuple[int, bytes]]:
        """Arrival (nanoseconds since 1970) and frame, of all until now. The kernel has dropped none."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, extra, _, sender = self._socket.recvmsg(200, 64, socket.MSG_DONTWAIT)
                if sender[2] != socket.PACKET_OUTGOING:
                    seconds, nanoseconds = struct.unpack("ll", extra[0][2][:16])
                    self._frames.append((seconds * 1_000_000_000 + nanoseconds, data))
        assert struct.unpack("II", self._socket.getsockopt(263, 6, 8))[1] == 0, "frames were missed"
        return self._frames

    def since_mark(self, sender: Namespace, device: str = "eth1") -> list[bytes]:
        """All frames until now: a last one is sent from ``sender``, and waited for."""
        mark = _MARK + struct.pack("!Q", time.monotonic_ns()) + bytes(40)
        with sender.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            sender.inside(lambda: raw.bind((device, 0)))
            raw.send(mark)
        until(lambda: any(frame == mark for _, frame in self.frames()), "the last frame has arrived")
        return [
            frame for _, frame in self._frames if frame[12:14] != _MARK[12:14] and not _housekeeping(frame)
        ]


def _housekeeping(frame: bytes) -> bool:
    """Group membership and router solicitations, which every IPv6 interface sends by its link-local address."""
    return frame[12:14] == b"\x86\xdd" and (
        frame[20] == 0 or (frame[20] == socket.IPPROTO_ICMPV6 and frame[54] == 133)
    )
