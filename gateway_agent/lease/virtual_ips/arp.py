"""Build and parse ARP and neighbour discovery frames, as bytes. Pure.

Frames begin with their Ethernet header. MACs are six octets of hex digits with colons between.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
HEADER = 14
"""Bytes of the Ethernet header."""
BROADCAST = b"\xff" * 6
ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
SOLICITED_NODE = ipaddress.IPv6Address("ff02::1:ff00:0").packed
UNSPECIFIED = bytes(16)
MULTICAST = 0xFF
"""The first octet of a group's address."""

# RFC 826; the numbers of an Ethernet and IPv4 packet
ARP = struct.Struct("!HHBBH6s4s6s4s")
ARP_REQUEST = 1
OF_ETHERNET = (1, 0x0800, 6, 4)

# RFC 8200, RFC 4861
ICMPV6 = 58
NEIGHBOR_SOLICITATION = 135
NEIGHBOR_ADVERTISEMENT = 136
SOLICITED = 0x40000000
OVERRIDE = 0x20000000
SOURCE_LINK_LAYER_ADDRESS = 1
TARGET_LINK_LAYER_ADDRESS = 2
HOP_LIMIT = 255
IPV6 = struct.Struct("!IHBB16s16s")
NEIGHBOR = struct.Struct("!BBHI16s")
"""Type, code, checksum, flags, target; the header of both messages."""


# Offsets of the fields that the kernel's filter reads, in bytes
SENDER_AT = HEADER + 14
PROTOCOL_AT = HEADER + 6
TYPE_AT = HEADER + IPV6.size
TARGET_AT = TYPE_AT + 8


@dataclass(frozen=True)
class Solicitation:
    """A neighbour solicitation: a request for the MAC of an IPv6 address."""

    target: str
    """The requested address, as :func:`canonical` writes it."""
    asker: bytes
    """The sender's address; :data:`UNSPECIFIED` during duplicate address detection."""
    mac: bytes
    """The sender's MAC."""


def canonical(address: str) -> str:
    """Return an address in the form of :func:`claimed_address`. Raises ValueError if it is none."""
    return str(ipaddress.ip_address(address))


def filtered_part(frame: bytes) -> int:
    """Return the bits that a filter compares: of the address that an ARP or neighbour discovery frame is about.

    Of an IPv6 address, these are the last 32 bits.
    """
    of_arp = frame[12:HEADER] == struct.pack("!H", ETH_P_ARP)
    at = SENDER_AT if of_arp else TARGET_AT + 12
    return int.from_bytes(frame[at : at + 4], "big")


def filtered_part_of(address: str) -> int:
    """Return :func:`filtered_part` of the frames about an address."""
    return int.from_bytes(ipaddress.ip_address(address).packed[-4:], "big")


def gratuitous(address: str, mac: str) -> bytes:
    """Return an ARP *request* by and for ``address`` (RFC 5227, section 3): all who know the address learn the MAC.

    It is not a reply, because Linux ignores replies for a second after a change.
    """
    return _arp(_ipv4(address), _ipv4(address), _octets(mac))


def advertisement(address: str, mac: str) -> bytes:
    """Return an unsolicited neighbour advertisement to all nodes, with the override flag (RFC 4861, section 7.2.6)."""
    return _advertisement(address, mac, OVERRIDE, ALL_NODES, _group_mac(ALL_NODES))


def answer(asked: Solicitation, mac: str) -> bytes:
    """Return the answer to a solicitation: ``asked.target`` is at ``mac`` (RFC 4861, section 7.2.4)."""
    if asked.asker == UNSPECIFIED:
        return advertisement(asked.target, mac)
    return _advertisement(asked.target, mac, SOLICITED | OVERRIDE, asked.asker, asked.mac)


def solicited_node(address: str) -> str:
    """Return the solicited-node multicast group of an IPv6 address (RFC 4291, section 2.7.1)."""
    return str(ipaddress.IPv6Address(_solicited_node(ipaddress.IPv6Address(address).packed)))


def probe(address: str, mac: str) -> bytes:
    """Return a probe for ``address``, which claims nothing: RFC 5227, section 2.1.1; IPv6: RFC 4862, section 5.4.2."""
    if ":" not in address:
        return _arp(bytes(4), _ipv4(address), _octets(mac))
    raw = ipaddress.IPv6Address(address).packed
    message = NEIGHBOR.pack(NEIGHBOR_SOLICITATION, 0, 0, 0, raw)
    group = _solicited_node(raw)
    return _neighbor(UNSPECIFIED, group, _octets(mac), _group_mac(group), message)


def claimed_address(frame: bytes) -> tuple[str, str] | None:
    """Return the address that the sender of a frame claims, and the sender's MAC.

    Every ARP packet with a sender address is a claim, and every neighbour advertisement. None for other frames.
    """
    kind = frame[12:HEADER]
    if kind == struct.pack("!H", ETH_P_ARP) and len(frame) >= HEADER + ARP.size:
        *types, _, mac, sender, _, _ = ARP.unpack_from(frame, HEADER)
        if tuple(types) == OF_ETHERNET and any(sender):
            return str(ipaddress.IPv4Address(sender)), mac.hex(":")
    if kind == struct.pack("!H", ETH_P_IPV6) and len(frame) >= HEADER + IPV6.size + NEIGHBOR.size:
        _, _, protocol, hops, _, _ = IPV6.unpack_from(frame, HEADER)
        icmp_type, code, _, _, target = NEIGHBOR.unpack_from(frame, HEADER + IPV6.size)
        # With a lower hop limit it has passed a router, and is a forgery (RFC 4861, section 7.1.2).
        if (protocol, hops, icmp_type, code) == (ICMPV6, HOP_LIMIT, NEIGHBOR_ADVERTISEMENT, 0):
            of_option = _link_layer(frame, TARGET_LINK_LAYER_ADDRESS)
            return str(ipaddress.IPv6Address(target)), (of_option or frame[6:12]).hex(":")
    return None


def solicitation(frame: bytes) -> Solicitation | None:
    """Return the neighbour solicitation in a frame; None for other frames, and for those that RFC 4861, 7.1.1, forbids.

    The checksum is not verified: the kernel does not fill it in for frames of this machine's own containers.
    """
    if frame[12:HEADER] != struct.pack("!H", ETH_P_IPV6) or len(frame) < HEADER + IPV6.size + NEIGHBOR.size:
        return None
    _, _, protocol, hops, asker, destination = IPV6.unpack_from(frame, HEADER)
    icmp_type, code, _, _, target = NEIGHBOR.unpack_from(frame, HEADER + IPV6.size)
    if (protocol, hops, icmp_type, code) != (ICMPV6, HOP_LIMIT, NEIGHBOR_SOLICITATION, 0):
        return None
    of_option = _link_layer(frame, SOURCE_LINK_LAYER_ADDRESS)
    forged = asker == UNSPECIFIED and (of_option or destination[:13] != SOLICITED_NODE[:13])
    if forged or asker[0] == MULTICAST or target[0] == MULTICAST:
        return None
    return Solicitation(str(ipaddress.IPv6Address(target)), asker, of_option or frame[6:12])


def _arp(sender: bytes, target: bytes, mac: bytes) -> bytes:
    header = BROADCAST + mac + struct.pack("!H", ETH_P_ARP)
    return header + ARP.pack(*OF_ETHERNET, ARP_REQUEST, mac, sender, bytes(6), target)


def _advertisement(address: str, mac: str, flags: int, receiver: bytes, receiver_mac: bytes) -> bytes:
    raw = ipaddress.IPv6Address(address).packed
    option = struct.pack("!BB6s", TARGET_LINK_LAYER_ADDRESS, 1, _octets(mac))
    message = NEIGHBOR.pack(NEIGHBOR_ADVERTISEMENT, 0, 0, flags, raw) + option
    return _neighbor(raw, receiver, _octets(mac), receiver_mac, message)


def _solicited_node(raw: bytes) -> bytes:
    return SOLICITED_NODE[:13] + raw[13:]


def _group_mac(group: bytes) -> bytes:
    """Return the MAC to which frames for a multicast group go (RFC 2464, section 7)."""
    return b"\x33\x33" + group[12:]


def _neighbor(source: bytes, receiver: bytes, mac: bytes, receiver_mac: bytes, message: bytes) -> bytes:
    """Return the frame with the checksum filled in (RFC 8200, section 8.1)."""
    checksum = _checksum(source + receiver + struct.pack("!II", len(message), ICMPV6) + message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    header = receiver_mac + mac + struct.pack("!H", ETH_P_IPV6)
    return header + IPV6.pack(6 << 28, len(message), ICMPV6, HOP_LIMIT, source, receiver) + message


def _checksum(data: bytes) -> int:
    """Return the internet checksum of RFC 1071. ``data`` has an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _link_layer(frame: bytes, kind: int) -> bytes:
    """Return the MAC in an option of a neighbour discovery message; empty if there is none."""
    options = frame[HEADER + IPV6.size + NEIGHBOR.size :]
    while len(options) >= 8 and options[1]:
        if options[0] == kind and options[1] == 1:
            return options[2:8]
        options = options[8 * options[1] :]
    return b""


def _ipv4(address: str) -> bytes:
    return ipaddress.IPv4Address(address).packed


def _octets(mac: str) -> bytes:
    octets = bytes.fromhex(mac.replace(":", ""))
    if len(octets) != 6:
        raise ValueError(f"{mac!r} is no MAC address")
    return octets
