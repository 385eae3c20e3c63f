"""What a local user without rights can do on a machine: no capability, neither root's files nor root's sockets."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .namespace import Namespace

T = TypeVar("T")
UNPRIVILEGED_UID = 65534
_SETRESUID = {"x86_64": 117, "aarch64": 147}[platform.machine()]
_libc = ctypes.CDLL(None, use_errno=True)


def as_local_user(machine: Namespace, action: Callable[[], T]) -> T:
    """Return the result of ``action``, run inside the machine by a thread of the user ``nobody``.

    The thread alone changes its user, and ends with the action: the C library's function would change all threads.
    """

    def drop() -> T:
        if _libc.syscall(_SETRESUID, UNPRIVILEGED_UID, UNPRIVILEGED_UID, UNPRIVILEGED_UID):
            raise OSError(ctypes.get_errno(), "cannot change the user of a thread")
        assert "CapEff:\t0000000000000000\n" in Path("/proc/thread-self/status").read_text()
        return action()

    return machine.inside(drop)


def sent_by_device(
    device: str, to: tuple[str, int], source: str = "", loop: bool = False, payload: bytes = b"forged"
) -> Callable[[], None]:
    """Return a function that sends a datagram by a device, which Linux permits to every user.

    It may be refused; over IPv6 there may be no route by the device either.
    """
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    refusals = (PermissionError,) if family == socket.AF_INET else (OSError,)

    def go() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as sock, contextlib.suppress(*refusals):
            if family == socket.AF_INET6:
                # Later the kernel would ask for an address of the device.
                sock.bind((source, 0))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            if family == socket.AF_INET:
                sock.bind((source, 0))
                # conntrackd has none looped back.
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loop)
            sock.sendto(payload, to)

    return go
