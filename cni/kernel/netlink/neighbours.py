"""Who is master, told to the kernel: one netlink message. The lease keeper sends it between two heartbeats."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct

from .. import ids
from ..errors import KernelError, refused
from ..sysctl import PROC_SYS_NET
from .rtnetlink import NLM_F_ACK, Socket, attribute

# linux/netlink.h, linux/rtnetlink.h, linux/neighbour.h
RTM_NEWNEIGH = 28
NLM_F_REPLACE = 0x100
NLM_F_CREATE = 0x400
HELD_BYTES = 32 << 20
"""That wait in a tunnel's queue at most, as the kernel counts them: some tens of milliseconds of a fast link."""
NUD_INCOMPLETE = 0x01
NUD_PERMANENT = 0x80
NDA_DST = 1
NDA_LLADDR = 2
NDA_PROTOCOL = 12
NEIGHBOUR = struct.Struct("=BBHiHBB")


class Neighbours:
    """A socket, opened once, that points tunnels at their masters."""

    def __init__(self) -> None:
        self._socket = Socket()

    def close(self) -> None:
        self._socket.close()

    def set_master(self, device: str, mac: str, family: int = 4) -> None:
        """Points a tunnel at the node with this MAC: replaces the neighbour entry of its next hop. Under 1 ms.

        ``family`` (4 or 6) is of the packets that the tunnel carries. Raises :class:`KernelError`, with
        :data:`errno.ENODEV`'s text where the device does not exist.
        """
        self._set(
            f"pointing {device} at {mac}", device, family, NUD_PERMANENT, attribute(NDA_LLADDR, _octets(mac))
        )

    def hold(self, device: str, family: int = 4) -> None:
        """Lets packets into a tunnel wait in the kernel's queue until :meth:`set_master` says where they go.

        The kernel keeps what waits for an incomplete entry, and with no timer of its own running the entry stays so.
        Raises :class:`KernelError`.
        """
        # The kernel's default, 200 kB, is what a hundred packets of busy connections take.
        with contextlib.suppress(OSError):
            (PROC_SYS_NET / f"ipv{family}" / "neigh" / device / "unres_qlen_bytes").write_text(
                str(HELD_BYTES)
            )
        self._set(f"holding packets back from {device}", device, family, NUD_INCOMPLETE, b"")

    def _set(self, doing: str, device: str, family: int, state: int, link_address: bytes) -> None:
        try:
            index = socket.if_nametoindex(device)
        except OSError as error:
            raise refused(doing, errno.ENODEV) from error
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        body = NEIGHBOUR.pack(kind, 0, 0, index, state, 0, 0)
        body += attribute(NDA_DST, socket.inet_pton(kind, ids.NEXT_HOPS[family])) + link_address
        # The kernel makes incomplete entries too, where one is missing: ours say whose they are.
        body += attribute(NDA_PROTOCOL, bytes([ids.PROTOCOL if state == NUD_INCOMPLETE else 0]))
        try:
            self._socket.request(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, body)
        except OSError as error:
            raise refused(doing, error.errno or errno.EIO) from error


def _octets(mac: str) -> bytes:
    try:
        octets = bytes.fromhex(mac.replace(":", ""))
    except ValueError:
        octets = b""
    if len(octets) != 6:
        raise KernelError(f"{mac!r} is no MAC address")
    return octets
