"""The packet log of the kernel as a bell: that a rule has logged something, not what.

The kernel sends what an nftables rule with ``log group N`` takes to the one socket that is bound to the group, and
nothing where there is none.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from ..nftables.elements import NFGENMSG
from .rtnetlink import NETLINK_NETFILTER, NLM_F_ACK, Socket, attribute

# linux/netfilter/nfnetlink.h, linux/netfilter/nfnetlink_log.h
NFULNL_MSG_CONFIG = 4 << 8 | 1
NFULA_CFG_CMD = 1
NFULA_CFG_MODE = 2
NFULA_CFG_QTHRESH = 5
BIND = b"\1"
COPY_NOTHING = struct.pack("!IBB", 0, 0, 0)
AT_ONCE = struct.pack("!I", 1)
"""Packets that the kernel collects before it sends them."""


class PacketLog(Socket):
    """Give :meth:`fileno` to an event loop, then :meth:`read`. Raises OSError where another program has the group."""

    def __init__(self, group: int) -> None:
        super().__init__(NETLINK_NETFILTER)
        try:
            body = NFGENMSG.pack(socket.AF_UNSPEC, 0, group) + attribute(NFULA_CFG_CMD, BIND)
            body += attribute(NFULA_CFG_MODE, COPY_NOTHING) + attribute(NFULA_CFG_QTHRESH, AT_ONCE)
            self.request(NFULNL_MSG_CONFIG, NLM_F_ACK, body)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bool:
        """Whether anything was logged since the last time. Does not block."""
        rung = False
        while True:
            try:
                self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return rung
            except OSError as error:
                # So many that some found no room.
                if error.errno != errno.ENOBUFS:
                    raise OSError(error.errno, os.strerror(error.errno or errno.EIO)) from error
            rung = True
