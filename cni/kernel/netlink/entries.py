"""Neighbour and forwarding entries of tunnels, by netlink alone: an egress node has some for each node of the cluster.

All of them are listed in each comparison of the kernel with a plan. pyroute2 takes
more than ten times as long for one entry.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Union

from .. import ids
from ..state import Fdb, Neighbour
from .constants import (
    FAMILIES,
    NDA_DST,
    NDA_IFINDEX,
    NDA_LLADDR,
    NDA_PROTOCOL,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NLMSG_ERROR,
    NTF_SELF,
    NUD_INCOMPLETE,
    NUD_NOARP,
    NUD_PERMANENT,
    RTM_DELNEIGH,
    RTM_GETNEIGH,
    RTM_NEWNEIGH,
)
from .messages import NDMSG, Message, NeighbourHeader, Request, address, attribute
from .netlink_socket import Socket, error_code

Entry = Union[Fdb, Neighbour]
MAX_SINGLE_DUMPS = 8
"""Devices that are listed one by one; if there are more, one listing has all devices."""
BATCH = 100
"""Requests in one system call: the socket must have room for their acknowledgements."""


def neighbours(version: int, names: Mapping[int, str]) -> Iterator[Neighbour]:
    """Yield the permanent neighbour entries of some devices. Raises OSError.

    ``version``: of IP, 4 or 6. ``names``: of the devices, by number. During a handover the lease daemon makes an entry
    incomplete, so that packets wait in its queue: such an entry counts as well.
    """
    for header, found in _listed(FAMILIES[version], names):
        held = header.state & NUD_INCOMPLETE and found.get(NDA_PROTOCOL, b"")[:1] == bytes([ids.PROTOCOL])
        known = address(found.get(NDA_DST, b""))
        if known and (held or header.state & NUD_PERMANENT):
            yield Neighbour(names[header.interface], known, found.get(NDA_LLADDR, b"").hex(":"))


def forwarding(names: Mapping[int, str]) -> Iterator[Fdb]:
    """Yield the forwarding entries of some VXLAN devices, given by number. Raises OSError."""
    for header, found in _listed(socket.AF_BRIDGE, names):
        if destination := address(found.get(NDA_DST, b"")):
            yield Fdb(names[header.interface], found.get(NDA_LLADDR, b"").hex(":"), destination)


def _listed(family: int, names: Mapping[int, str]) -> Iterator[tuple[NeighbourHeader, dict[int, bytes]]]:
    with Socket(strict=True) as kernel:
        yield from listed(kernel, family, names)


def listed(
    kernel: Socket, family: int, names: Mapping[int, str]
) -> Iterator[tuple[NeighbourHeader, dict[int, bytes]]]:
    """Yield header and attributes of each entry of some devices. ``kernel``: a strict socket. Raises OSError."""
    header = NDMSG.pack(NeighbourHeader(family, 0, 0))
    one_by_one = len(names) <= MAX_SINGLE_DUMPS
    filters = [attribute(NDA_IFINDEX, struct.pack("=I", index)) for index in names] if one_by_one else [b""]
    for only in filters:
        for message in kernel.dump(RTM_GETNEIGH, header + only):
            entry = NDMSG.read(message.body)
            if entry.interface in names:
                yield entry, NDMSG.attributes(message.body)


def change(changes: Sequence[tuple[str, Entry]]) -> list[int]:
    """Make changes (``put`` or ``delete``, and the entry) in order. Return an error number for each; 0: it is made.

    If a change fails, the following ones are made all the same. Raises OSError if the kernel does not answer.
    """
    codes: list[int] = []
    indices = _indices({entry.device for _, entry in changes})
    with Socket() as kernel:
        for first in range(0, len(changes), BATCH):
            codes += _change(kernel, changes[first : first + BATCH], indices)
    return codes


def _change(kernel: Socket, changes: Sequence[tuple[str, Entry]], indices: Mapping[str, int]) -> list[int]:
    places = [place for place, (_, entry) in enumerate(changes) if entry.device in indices]
    codes = [errno.ENODEV] * len(changes)
    if not places:
        return codes
    first = kernel.send(_request(*changes[place], indices) for place in places)
    missing = len(places)
    while missing:
        for message in kernel.receive():
            place = message.sequence - first
            if _acknowledges(message) and 0 <= place < len(places):
                codes[places[place]] = error_code(message)
                missing -= 1
    return codes


def _acknowledges(message: Message) -> bool:
    return message.kind == NLMSG_ERROR


def _indices(devices: Iterable[str]) -> dict[str, int]:
    """Return the numbers of the devices that exist."""
    found = {name: index for index, name in socket.if_nameindex()}
    return {device: found[device] for device in devices if device in found}


def _request(action: str, entry: Entry, indices: Mapping[str, int]) -> Request:
    mac = attribute(NDA_LLADDR, bytes.fromhex(entry.mac.replace(":", "")))
    index, deletes = indices[entry.device], action == "delete"
    kind = RTM_DELNEIGH if deletes else RTM_NEWNEIGH
    if isinstance(entry, Fdb):
        header = NeighbourHeader(socket.AF_BRIDGE, index, NUD_NOARP | NUD_PERMANENT, NTF_SELF)
        body = NDMSG.pack(header, attribute(NDA_DST, _raw(entry.destination)), mac)
        # Of the entry for everything else there is one for each destination.
        flag = NLM_F_APPEND if entry.mac == ids.FLOOD_MAC else NLM_F_REPLACE
    else:
        raw = _raw(entry.address)
        family = FAMILIES[4 if len(raw) == 4 else 6]
        body = NDMSG.pack(NeighbourHeader(family, index, NUD_PERMANENT), attribute(NDA_DST, raw), mac)
        flag = NLM_F_REPLACE
    return Request(kind, NLM_F_ACK | (0 if deletes else NLM_F_CREATE | flag), body)


def _raw(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
