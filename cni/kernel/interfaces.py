"""The pods' host-side interfaces and their tags, without pyroute2: this is done at each pod start.

All raise :class:`~cni.kernel.errors.KernelError`.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable

from .errors import refused
from .rtnetlink import NLM_F_ACK, Socket, attribute, attributes

# linux/rtnetlink.h, linux/if_link.h
RTM_SETLINK = 19
RTM_GETLINK = 18
IFLA_IFNAME = 3
IFLA_LINKINFO = 18
IFLA_INFO_KIND = 1
IFLA_GROUP = 27
LINK = struct.Struct("=BxHiII")
"""Family, type, index, flags, change."""
NAME_BYTES = 15
"""``IFNAMSIZ`` less the NUL at the end; the kernel refuses longer names as malformed."""


def host_veth(names: Iterable[str]) -> str | None:
    """The first of these interfaces that exists and is a veth; None where none is."""
    with Socket() as kernel:
        for name in names:
            found = _link(kernel, name)
            if found and attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"").rstrip(b"\0") == b"veth":
                return name
    return None


def tag_of(device: str) -> int | None:
    """The group of an interface; None where it does not exist."""
    with Socket() as kernel:
        found = _link(kernel, device)
    return None if found is None else int.from_bytes(found.get(IFLA_GROUP, b""), "little")


def tag(device: str, group: int) -> None:
    """Puts an interface into an interface group; 0 is the kernel's default group."""
    body = LINK.pack(0, 0, 0, 0, 0) + _name(device) + attribute(IFLA_GROUP, struct.pack("=I", group))
    try:
        with Socket() as kernel:
            # By name: between looking up an index and using it the interface could be another one.
            kernel.request(RTM_SETLINK, NLM_F_ACK, body)
    except OSError as error:
        raise refused(f"tagging {device}", _code(error, device)) from error


def _link(kernel: Socket, device: str) -> dict[int, bytes] | None:
    try:
        answer = kernel.request(RTM_GETLINK, 0, LINK.pack(0, 0, 0, 0, 0) + _name(device))
    except OSError as error:
        code = _code(error, device)
        if code == errno.ENODEV:
            return None
        raise refused(f"looking at {device}", code) from error
    return attributes(answer[LINK.size :])


def _name(device: str) -> bytes:
    return attribute(IFLA_IFNAME, device.encode(errors="surrogateescape") + b"\0")


def _code(error: OSError, device: str) -> int:
    """A name that no interface can have is one that is not there."""
    return errno.ENODEV if not 0 < len(device) <= NAME_BYTES else error.errno or errno.EIO
