"""The neighbour entry that points a tunnel at its master: one netlink message, sent between two heartbeats."""

from __future__ import annotations

import contextlib
import errno
import socket

from .. import ids
from ..errors import KernelError, refused
from ..sysctl import PROC_SYS_NET
from .constants import (
    FAMILIES,
    NDA_DST,
    NDA_LLADDR,
    NDA_PROTOCOL,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NUD_INCOMPLETE,
    NUD_PERMANENT,
    RTM_NEWNEIGH,
)
from .messages import NDMSG, NeighbourHeader, attribute
from .netlink_socket import Socket

MAX_QUEUE_BYTES = 32 << 20
"""Length of a tunnel's queue, as the kernel counts it: some tens of milliseconds of a fast link."""


class Neighbours:
    """A socket, opened once, that points tunnels at their masters."""

    def __init__(self) -> None:
        self._socket = Socket()

    def close(self) -> None:
        """Close the socket; the entries stay."""
        self._socket.close()

    def set_master(self, device: str, mac: str, family: int = 4) -> None:
        """Point a tunnel at the node with this MAC: replace the neighbour entry of its next hop. Takes under 1 ms.

        ``family`` (4 or 6) is of the packets that the tunnel carries. Raises :class:`KernelError`, with
        :data:`errno.ENODEV`'s text if the device does not exist.
        """
        link_address = attribute(NDA_LLADDR, _octets(mac))
        self._set(f"pointing {device} at {mac}", device, family, NUD_PERMANENT, link_address)

    def queue(self, device: str, family: int = 4) -> None:
        """Queue packets into a tunnel in the kernel until :meth:`set_master` says where they go.

        The kernel keeps packets that wait for an incomplete entry. No timer of the kernel runs, so the entry stays
        incomplete. Raises :class:`KernelError`.
        """
        # The kernel's default, 200 kB, has room for a hundred packets of busy connections.
        with contextlib.suppress(OSError):
            path = PROC_SYS_NET / f"ipv{family}" / "neigh" / device / "unres_qlen_bytes"
            path.write_text(str(MAX_QUEUE_BYTES))
        self._set(f"queueing packets into {device}", device, family, NUD_INCOMPLETE, b"")

    def _set(self, doing: str, device: str, family: int, state: int, link_address: bytes) -> None:
        try:
            index = socket.if_nametoindex(device)
        except OSError as error:
            raise refused(doing, errno.ENODEV) from error
        destination = socket.inet_pton(FAMILIES[family], ids.NEXT_HOPS[family])
        # The kernel makes incomplete entries too, if one is missing: the protocol marks ours.
        protocol = ids.PROTOCOL if state == NUD_INCOMPLETE else 0
        body = NDMSG.pack(
            NeighbourHeader(FAMILIES[family], index, state),
            attribute(NDA_DST, destination),
            link_address,
            attribute(NDA_PROTOCOL, bytes([protocol])),
        )
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
