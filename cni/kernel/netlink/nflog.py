"""Notifications from the kernel's packet log: a rule has logged a packet.

The kernel sends the packets of an nftables rule with ``log group N`` to the one socket that is bound to the group, if
there is one.
"""

from __future__ import annotations

import errno
import struct

from .constants import (
    NETLINK_NETFILTER,
    NFULA_CFG_CMD,
    NFULA_CFG_MODE,
    NFULA_CFG_QTHRESH,
    NFULA_PAYLOAD,
    NFULNL_CFG_CMD_BIND,
    NFULNL_CFG_CMD_UNBIND,
    NFULNL_COPY_PACKET,
    NFULNL_MSG_CONFIG,
    NFULNL_MSG_PACKET,
    NLM_F_ACK,
)
from .messages import NFGENMSG, NetfilterHeader, attribute, attributes
from .netlink_socket import Socket

CONFIG_MODE = struct.Struct("!IBB")
"""``struct nfulnl_msg_config_mode``: how many bytes of a packet are copied, and the mode."""
MAX_DELAYED_PACKETS = 1
"""Packets that the kernel collects before it sends them."""


class PacketLog(Socket):
    """A socket of the packet log: give :meth:`fileno` to an event loop, then :meth:`read`."""

    def __init__(self, group: int | None = None, copied_bytes: int = 0) -> None:
        """Bind a group, if one is given: see :meth:`bind`. Raises OSError."""
        super().__init__(NETLINK_NETFILTER)
        if group is not None:
            try:
                self.bind(group, copied_bytes)
            except OSError:
                self.close()
                raise

    def bind(self, group: int, copied_bytes: int = 0) -> None:
        """Receive the packets that are logged with this group. Raises OSError if another program has the group.

        ``copied_bytes``: how much of each packet :meth:`packets` returns, from the IP header on.
        """
        self._configure(
            group,
            attribute(NFULA_CFG_CMD, bytes([NFULNL_CFG_CMD_BIND])),
            attribute(NFULA_CFG_MODE, CONFIG_MODE.pack(copied_bytes, copied_bytes and NFULNL_COPY_PACKET, 0)),
            attribute(NFULA_CFG_QTHRESH, struct.pack("!I", MAX_DELAYED_PACKETS)),
        )

    def unbind(self, group: int) -> None:
        """Release a group for other programs, and drop the messages that wait to be received. Raises OSError.

        A long-running process does this instead of closing the socket: see :mod:`.netfilter`.
        """
        self._configure(group, attribute(NFULA_CFG_CMD, bytes([NFULNL_CFG_CMD_UNBIND])))
        self._socket.settimeout(0.0)
        while self._drop_one():
            pass
        self._socket.settimeout(None)

    def _configure(self, group: int, *settings: bytes) -> None:
        body = NFGENMSG.pack(NetfilterHeader(resource=group), *settings)
        self.request(NFULNL_MSG_CONFIG, NLM_F_ACK, body)

    def read(self) -> bool:
        """Return True if a packet was logged since the last call. Does not block. Raises OSError."""
        logged = False
        while True:
            try:
                self.receive(wait=False)
            except BlockingIOError:
                return logged
            except OSError as error:
                # Packets were lost: there was no room for more.
                if error.errno != errno.ENOBUFS:
                    raise
            logged = True

    def packets(self) -> list[bytes]:
        """Return the beginning of each packet that was logged since the last call. Does not block. Raises OSError."""
        found: list[bytes] = []
        while True:
            try:
                received = self.receive(wait=False)
            except BlockingIOError:
                return found
            bodies = (attributes(m.body[NFGENMSG.size :]) for m in received if m.kind == NFULNL_MSG_PACKET)
            found += [body[NFULA_PAYLOAD] for body in bodies if NFULA_PAYLOAD in body]
