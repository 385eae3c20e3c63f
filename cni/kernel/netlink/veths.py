"""Veths that represent pods: ``egressctl test`` sends packets as a pod would, and receives the answers.

Both ends are in this network namespace. A packet that is sent by one end arrives at the other as a pod's packet does.
Routes and neighbour entries vanish with the veth.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from .. import ids
from ..errors import refused
from . import messages
from .constants import (
    FAMILIES,
    IFF_UP,
    IFLA_GROUP,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    NDA_DST,
    NDA_LLADDR,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NUD_PERMANENT,
    RT_SCOPE_LINK,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_OIF,
    RTM_DELLINK,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTN_UNICAST,
    RTPROT_STATIC,
    VETH_INFO_PEER,
)
from .messages import IFINFOMSG, NDMSG, RTMSG, LinkHeader, NeighbourHeader, RouteHeader, attribute, nested
from .netlink_socket import Socket

MAC = bytes.fromhex("02e900000001")
"""MAC of the represented pod. It belongs to neither end, so the kernel's own stack does not accept packets to it."""
MAX_VETHS = 200
UP = LinkHeader(flags=IFF_UP, change=IFF_UP)


class ProbeVeth(NamedTuple):
    """One veth, with the addresses of its pod by IP version."""

    device: str
    """The end that represents a pod's host-side interface."""
    peer: str
    """The end by which the pod sends and receives."""
    addresses: dict[int, str]


def add(number: int, group: int) -> ProbeVeth:
    """Make the veth with this number, less than :data:`MAX_VETHS`, its host-side end in this interface group.

    Raises :class:`~cni.kernel.errors.KernelError`.
    """
    device, peer = f"{ids.TEST_DEVICE}{number}", f"{ids.TEST_PEER}{number}"
    pod = ids.TEST_FIRST + number
    made = ProbeVeth(device, peer, {4: ids.TEST4.format(pod), 6: ids.TEST6.format(pod)})
    try:
        with Socket() as kernel:
            _make(kernel, made, group)
            for version, address in made.addresses.items():
                _lead(kernel, device, version, address)
    except OSError as error:
        raise refused(f"making {device}", error.errno or errno.EIO) from error
    return made


def remove(number: int) -> bool:
    """Remove the veth with this number. Return False if there is none.

    Raises :class:`~cni.kernel.errors.KernelError`.
    """
    device = f"{ids.TEST_DEVICE}{number}"
    try:
        with Socket() as kernel:
            kernel.request(
                RTM_DELLINK, NLM_F_ACK, IFINFOMSG.pack(LinkHeader(), messages.text(IFLA_IFNAME, device))
            )
    except OSError as error:
        if error.errno == errno.ENODEV:
            return False
        raise refused(f"removing {device}", error.errno or errno.EIO) from error
    return True


def _make(kernel: Socket, veth: ProbeVeth, group: int) -> None:
    # The group is set before the first packet: without a group, the guard of unknown pods would drop the packet.
    peer = attribute(VETH_INFO_PEER, IFINFOMSG.pack(LinkHeader(), messages.text(IFLA_IFNAME, veth.peer)))
    info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"veth"), nested(IFLA_INFO_DATA, peer))
    link = messages.text(IFLA_IFNAME, veth.device), attribute(IFLA_GROUP, struct.pack("=I", group))
    kernel.request(
        RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, IFINFOMSG.pack(LinkHeader(), *link, info)
    )
    for name in (veth.peer, veth.device):
        kernel.request(RTM_NEWLINK, NLM_F_ACK, IFINFOMSG.pack(UP, messages.text(IFLA_IFNAME, name)))


def _lead(kernel: Socket, device: str, version: int, address: str) -> None:
    """Lead an address to a veth: by a route and a neighbour entry. A kernel without IPv6 has none."""
    family, index = FAMILIES[version], socket.if_nametoindex(device)
    packed = socket.inet_pton(family, address)
    route = RouteHeader(
        family, len(packed) * 8, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_LINK, RTN_UNICAST
    )
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    to, by = attribute(RTA_DST, packed), attribute(RTA_OIF, struct.pack("=I", index))
    entry = NeighbourHeader(family, index, NUD_PERMANENT)
    mac = attribute(NDA_LLADDR, MAC)
    try:
        kernel.request(RTM_NEWROUTE, flags, RTMSG.pack(route, to, by))
        kernel.request(RTM_NEWNEIGH, flags, NDMSG.pack(entry, attribute(NDA_DST, packed), mac))
    except OSError:
        # IPv6 may be off on this node, or on new interfaces.
        if version == 4:
            raise
