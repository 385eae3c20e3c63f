"""Who is master, told to the kernel: one netlink message. The lease keeper sends it between two heartbeats."""

from __future__ import annotations

import errno
import socket
import struct

from . import ids
from .errors import KernelError, refused
from .rtnetlink import NLM_F_ACK, Socket, attribute

# linux/netlink.h, linux/rtnetlink.h, linux/neighbour.h
RTM_NEWNEIGH = 28
NLM_F_REPLACE = 0x100
NLM_F_CREATE = 0x400
NUD_PERMANENT = 0x80
NDA_DST = 1
NDA_LLADDR = 2
NEIGHBOUR = struct.Struct("=BBHiHBB")


class Neighbours:
    """A socket, opened once, that points tunnels at their masters."""

    def __init__(self) -> None:
        self._socket = Socket()

    def close(self) -> None:
        self._socket.close()

    def set_master(self, device: str, mac: str) -> None:
        """Points a tunnel at the node with this MAC: replaces the neighbour entry of its next hop. Under 1 ms.

        Raises :class:`KernelError`, with :data:`errno.ENODEV`'s text where the device does not exist.
        """
        doing = f"pointing {device} at {mac}"
        try:
            index = socket.if_nametoindex(device)
        except OSError as error:
            raise refused(doing, errno.ENODEV) from error
        body = NEIGHBOUR.pack(socket.AF_INET, 0, 0, index, NUD_PERMANENT, 0, 0)
        body += attribute(NDA_DST, socket.inet_aton(ids.NEXT_HOP)) + attribute(NDA_LLADDR, _octets(mac))
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
