"""Netfilter's netlink sockets, which a long-running process does not close.

Theory of operation. When any such socket closes, whatever it was used for, the kernel takes the lock of all nftables
transactions of the network namespace. It holds the lock until the objects that earlier transactions have deleted are
freed (``nft_rcv_nl_event()``, seen on Linux 6.18). That takes one grace period of RCU: some 20 ms, and hundreds of
milliseconds on a busy machine, since threads without real-time priority end the period. The lease daemon refreshes the
fence by such transactions: it would wait for as long, and the fence could close. So an agent calls :func:`stay`, and
keeps its sockets.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from .constants import NETLINK_NETFILTER
from .netlink_socket import Socket


class _Kept(threading.local):
    """The idle sockets of each thread."""

    def __init__(self) -> None:
        self.sockets: list[Socket] = []
        self.watchers: list[Socket] = []


_kept = _Kept()
_stays = threading.Event()


def stay() -> None:
    """Keep sockets open from now on. For a process that runs long, in one network namespace."""
    _stays.set()


def stays() -> bool:
    """Return True if this process keeps its sockets open."""
    return _stays.is_set()


@contextmanager
def opened() -> Iterator[Socket]:
    """Yield a socket for requests, listings and transactions, without subscriptions. Raises OSError."""
    netlink = _kept.sockets.pop() if _kept.sockets else Socket(NETLINK_NETFILTER)
    try:
        yield netlink
    except OSError as error:
        # After another error there may be unread answers.
        _finish(netlink, stays() and error.errno == errno.ENOENT)
        raise
    except BaseException:
        netlink.close()
        raise
    _finish(netlink, stays())


def _finish(netlink: Socket, keep: bool) -> None:
    if keep:
        _kept.sockets.append(netlink)
    else:
        netlink.close()


def watch(groups: Iterable[int], buffer_bytes: int, timeout_s: float) -> Socket:
    """Return a socket that receives the kernel's messages to these groups. Raises OSError."""
    netlink = _kept.watchers.pop() if _kept.watchers else Socket(NETLINK_NETFILTER)
    netlink.set_timeout(timeout_s)
    netlink.subscribe(groups, buffer_bytes)
    return netlink


def unwatch(netlink: Socket, groups: Iterable[int]) -> None:
    """Give back a socket of :func:`watch`: it receives no further messages."""
    if not stays():
        netlink.close()
        return
    try:
        netlink.unsubscribe(groups)
    except OSError:
        netlink.close()
        return
    _kept.watchers.append(netlink)
