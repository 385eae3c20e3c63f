"""The guard of pods without a tag, as nftables rules. Pure.

The plugin and the agent put each pod's interface into an interface group of ours. A pod that starts without a call of
the plugin has an interface in group 0, the kernel's default. Connections that such a pod opens to the outside are
dropped, because a policy may select it. The rules work while no program runs.

A pod's interface is recognised by its kind, a veth: uplinks, tunnels and the taps of virtual machines have other kinds.
A veth that belongs to no pod is excepted by its name or by the name of its bridge.

The hooks of IP do not see the port of a bridge, so a bit of the packet's priority carries that fact there. A bit of the
packet mark would not do: our other tables drop packets with an unknown mark.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

from cni.datapath.nft_blocks import KEYWORDS, chain, transaction
from cni.kernel import ids

FAMILIES = ("bridge", "inet")
"""Families of the tables."""
NAME = re.compile(r"[A-Za-z0-9_.:@-]{1,15}|[A-Za-z0-9_.:@-]{1,14}\*")
"""Name of an interface; with ``*`` at the end, a prefix of names."""
UNKNOWN = 'iifgroup 0 meta iifkind "veth"'
FROM_PORT = f"meta priority and {ids.UNJUDGED:#x} == {ids.UNJUDGED:#x}"
CLEAR = f"meta priority set meta priority and {ids.UNJUDGED ^ 0xFFFFFFFF:#x}"


def guard_nft(inside: Iterable[str], excepted: Iterable[str]) -> str:
    """Return the transaction that replaces both tables.

    ``inside``: prefixes inside the cluster. ``excepted``: names of interfaces and bridges, as in
    :data:`NAME`, whose packets pass.
    """
    # A bridge passes only frames to its own MAC on to routing.
    port = f"{UNKNOWN} meta pkttype host meta priority set meta priority or {ids.UNJUDGED:#x}"
    bridge = chain("port", [port], "filter hook prerouting priority -299")
    # After the DNAT of Services, and before a packet gets its mark.
    first = [f"{FROM_PORT} goto from_port", f"{UNKNOWN} goto unjudged"]
    inet = (
        chain("guard", first, "filter hook prerouting priority dstnat + 5"),
        chain("from_port", [CLEAR, "goto unjudged"]),
        chain("unjudged", _unjudged(inside, excepted)),
    )
    return transaction("bridge", ids.NFT_GUARD, [bridge]) + transaction("inet", ids.NFT_GUARD, inet)


def no_guard() -> str:
    """Return the transaction that removes both tables."""
    return "".join(transaction(family, ids.NFT_GUARD, ()) for family in FAMILIES)


def _unjudged(inside: Iterable[str], excepted: Iterable[str]) -> Iterator[str]:
    yield from (f'iifname "{name}" accept' for name in sorted(set(excepted)) if NAME.fullmatch(name))
    # Replies in connections that others have opened to the pod.
    yield "ct direction reply accept"
    yield "fib daddr type { local, broadcast, multicast } accept"
    parsed = [ipaddress.ip_network(prefix, strict=False) for prefix in inside]
    for version, keyword in KEYWORDS.items():
        networks = [network for network in parsed if network.version == version]
        if networks:
            yield f"{keyword} daddr {{ {', '.join(_collapsed(networks))} }} accept"
    yield "counter drop"


def _collapsed(networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> Iterator[str]:
    of4 = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
    of6 = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
    yield from map(str, ipaddress.collapse_addresses(of4))
    yield from map(str, ipaddress.collapse_addresses(of6))
