"""The fence as nftables text: drop what leaves with a virtual address that this node has no lease for. Pure.

The sets ``open4`` and ``open6`` hold the addresses that may send: the lease daemon writes their elements, and the
kernel lets them expire (:mod:`gateway_agent.lease_daemon.kernel.vip_fence`). Every node that can be master has the
table. Its hook comes after routing, NAT and all programs, before the devices' queues: packets of the kernel itself
(ARP, neighbour discovery, TCP) and raw frames pass it, too (Linux 5.16).

Raw frames pass no other hook, so this table also drops frames that a process writes for the tunnels' port, on every
node that has tunnels (:mod:`cni.datapath.tunnel_port_guard`).

As in :mod:`cni.datapath.nft_blocks`, no frame passes because a lookup finds nothing: the maps cover the whole address
space.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Sequence

from cni.datapath.nft_blocks import KEYWORDS, chain, interface, mapping, transaction
from cni.datapath.steering import widest
from cni.datapath.tunnel_port_guard import BY_PROCESS, ETHERTYPES
from cni.kernel import ids

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
ICMPV6 = 58
"""ICMP for IPv6 (IANA, protocol numbers). nft reads its name from ``/etc/protocols``, which a container may lack."""


def fence_nft(
    addresses: Sequence[str], devices: Sequence[str], port: int = 0, own: Sequence[str] = ()
) -> str:
    """Return the nft transaction that replaces the fence, or removes it if there is no address or no device to fence.

    ``port``: UDP port of the tunnels; 0: this node has none. ``own``: see
    :func:`cni.datapath.tunnel_port_guard.process_tunnels`. ``devices``: all devices by which packets could leave; on
    kernels before 6.16 each must exist. A device whose name nft cannot take is left out:
    :func:`cni.datapath.nft_blocks.way_out` sends nothing by it either. Raises :class:`ValueError` for a text that is no
    address.
    """
    parsed = {ipaddress.ip_address(address) for address in addresses}
    names = sorted({device for device in devices if interface(device)})
    wanted = (parsed or port) and names
    return transaction("netdev", ids.NFT_FENCE, _blocks(parsed, names, port, own) if wanted else ())


def _blocks(addresses: set[Address], devices: list[str], port: int, own: Sequence[str]) -> Iterator[str]:
    yield _timed_set(ids.FENCE_TICKETS, "mark")
    yield _timed_set(ids.FENCE_OPEN4, "ipv4_addr")
    yield _timed_set(ids.FENCE_OPEN6, "ipv6_addr")
    yield chain("allow4", [f"ip saddr @{ids.FENCE_OPEN4} accept", "counter drop"])
    yield chain("allow_arp", [f"arp saddr ip @{ids.FENCE_OPEN4} accept", "counter drop"])
    yield chain("allow6", [f"ip6 saddr @{ids.FENCE_OPEN6} accept", "counter drop"])
    rules = list(_free(addresses, f"th dport != {port} " if port else ""))
    if port:
        yield chain("tunnel_process", [*(f"{to} return" for to in own), "counter drop"])
        # No process has sent what is left of the tunnels' packets.
        rules += [f"udp dport {port} {BY_PROCESS} jump tunnel_process", *_free(addresses, "")]
    rules += _ethertype_check()
    for version, judge in ((4, _rules4), (6, _rules6)):
        of_version = sorted((a for a in addresses if a.version == version), key=int)
        if of_version:
            blocks, more = judge(of_version)
            yield from blocks
            rules += more
    for device in devices:
        name = f"device_{hashlib.sha256(device.encode()).hexdigest()[:16]}"
        yield chain(name, rules, f"filter hook egress device {interface(device)} priority filter")


def _free(addresses: set[Address], to: str) -> Iterator[str]:
    """Yield a rule for each IP version that lets most frames pass: no other rule could drop them.

    Their source lies in one of the widest ranges without a virtual address. Ranges are part of the rule, not in a set.
    ``to``: the expression for the destination.
    """
    for version, keyword in KEYWORDS.items():
        networks = [ipaddress.ip_network(address) for address in addresses if address.version == version]
        source = "".join(f"{keyword} saddr {each} " for each in widest(networks))
        # An advertisement may name another address than its source.
        other = f"meta l4proto != {ICMPV6} " if version == 6 else ""
        ethertype = f"meta protocol {keyword} @ll,96,16 {ETHERTYPES[version]}"
        yield f"{ethertype} {other}{to}{source}accept"


def _ethertype_check() -> Iterator[str]:
    """Yield the rules that drop frames whose EtherType differs from the protocol that the socket gave to the kernel."""
    for protocol, number in (("arp", "0x0806"), ("ip", "0x0800"), ("ip6", "0x86dd")):
        yield f"meta protocol != {protocol} @ll,96,16 {number} counter drop"


def _rules4(addresses: list[Address]) -> tuple[list[str], list[str]]:
    """Return blocks, and the rules for each device, about IPv4 and ARP."""
    senders_of_arp, arp = _verdict_map("arp4", addresses, "allow_arp")
    senders, virtual = _verdict_map("virtual4", addresses, "allow4")
    rules = [f"arp saddr ip vmap @{senders_of_arp}", "meta protocol arp counter drop"]
    return [arp, virtual], [*rules, f"ip saddr vmap @{senders}", "meta protocol ip counter drop"]


def _rules6(addresses: list[Address]) -> tuple[list[str], list[str]]:
    """Return blocks, and the rules for each device, about IPv6.

    An advertisement of a virtual address must have that address as its source, which is then checked like any source.
    """
    # nft 1.0.6 has no name for the target of an advertisement, and cannot use an unnamed field as the key of a map.
    claims = [f"@th,64,128 {int(address):#034x} ip6 saddr != {address} counter drop" for address in addresses]
    targets = f"nd_targets_{_hash(claims)}"
    senders, virtual = _verdict_map("virtual6", addresses, "allow6")
    rules = [f"icmpv6 type nd-neighbor-advert jump {targets}", f"ip6 saddr vmap @{senders}"]
    return [chain(targets, claims), virtual], [*rules, "meta protocol ip6 counter drop"]


def _verdict_map(name: str, addresses: list[Address], target: str) -> tuple[str, str]:
    """Return the full name of a map, and the map: see :func:`_verdicts`."""
    elements = list(_verdicts(addresses, target))
    full = f"{name}_{_hash(elements)}"
    return full, mapping(full, f"ipv{addresses[0].version}_addr", elements, interval=True)


def _hash(content: list[str]) -> str:
    """Return a hash of a block's content as part of its name: a new map is filled before a rule uses it."""
    return hashlib.sha256(" ".join(content).encode()).hexdigest()[:16]


def _verdicts(addresses: list[Address], target: str) -> Iterator[str]:
    """Yield the whole address space as elements of a map: the addresses go to ``target``, all others are accepted."""
    kind, free = type(addresses[0]), 0
    for address in addresses:
        if int(address) > free:
            yield _between(kind(free), address - 1)
        yield f"{address} : goto {target}"
        free = int(address) + 1
    if free < 1 << addresses[0].max_prefixlen:
        yield _between(kind(free), kind((1 << addresses[0].max_prefixlen) - 1))


def _between(first: Address, last: Address) -> str:
    return f"{first} : accept" if first == last else f"{first}-{last} : accept"


def _timed_set(name: str, key: str) -> str:
    """Return the text of a set whose elements are written at run time."""
    return f"\tset {name} {{\n\t\ttype {key}\n\t\tflags timeout\n\t}}\n"
