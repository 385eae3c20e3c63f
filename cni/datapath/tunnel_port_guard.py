"""The guards of the tunnels' UDP port, as nftables rules. Pure.

VXLAN has no authentication: without these rules, the kernel accepts every packet to the port as a tunnel's packet. So

* only the kernel's own encapsulation sends to the port: the last rule that the inner packet passes gives it a priority
  that no socket can have without ``CAP_NET_ADMIN`` or ``CAP_NET_RAW``, and the outer packet inherits that;
* a packet of a process of this node goes into no tunnel to a gateway, whatever its priority and capabilities are: such
  a packet still has the socket of its process, a forwarded one has none. The agent's probe, which never leaves the
  node, is excepted (:mod:`cni.datapath.path_proof`);
* no pod's packet is forwarded to the port;
* a packet that arrives at the port comes from a node, by the interface that leads to that node, in a tunnel that this
  node may use, and with an inner source that belongs to that node. Decapsulation removes the outer source, so inner and
  outer header are compared before.

As in :mod:`cni.datapath.nft_blocks`, finding nothing in a set or map drops.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from functools import lru_cache

from ..kernel import ids
from ..plan import Plan, PlanNode
from . import path_proof, sync_device
from .nft_blocks import (
    KEYWORDS,
    TUNNELS,
    Marks,
    address_of,
    chain,
    families,
    from_elsewhere,
    peers,
    senders,
    serving,
    underlay,
)

# Offsets in bits from the UDP header: that is 8 bytes, VXLAN's is 8 (RFC 7348, section 5), Ethernet's is 14.
FLAGS, ONLY_VNI = "@th,64,32", "0x08000000"
VNI = "@th,96,24"
ETHERTYPE = "@th,224,16"
ETHERTYPES = {4: "0x0800", 6: "0x86dd"}
BY_PROCESS = "meta skuid >= 0"
"""Match of a packet with a socket of a process of this network namespace. The kernel's own sockets have no owner."""
INNER_SOURCE = {4: "@th,336,32", 6: "@th,304,128"}


def chains(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the chains, sets and maps of the guards."""
    others = f"meta priority and {ids.ENCAPSULATED:#x} == 0 counter drop"
    known = f"meta priority set meta priority and {ids.ENCAPSULATED ^ 0xFFFFFFFF:#x} accept"
    yield chain("tunnel_send", [others, f"{BY_PROCESS} goto tunnel_process", known])
    own = [f"{to} {known}" for to in process_tunnels(plan)]
    own += [f"oifname {probe} {known}" for probe in path_proof.OUTER]
    yield chain("tunnel_process", [*own, "counter drop"])
    yield from _tunnels(plan)
    yield from _delivered(marks)
    yield chain("tunnel_probe", [f"iifname {probe} accept" for probe in path_proof.OUTER])
    yield chain("tunnel_receive", _receive(plan))


def process_tunnels(plan: Plan) -> Iterator[str]:
    """Yield expressions for the tunnels into which processes of this node send.

    A service on an address of a master answers a pod of another node, and conntrackd sends to its partners.
    """
    if plan.node in serving(plan):
        yield f"{VNI} {ids.RETURN_VNI:#x}"
    if sync_device.partners(plan):
        yield f"meta skuid 0 {VNI} {ids.SYNC_VNI:#x}"


def output_rules(plan: Plan) -> Iterator[str]:
    """Yield the rule for what this node sends to the port."""
    yield f"udp dport {plan.port} goto tunnel_send"


def _delivered(marks: Marks) -> Iterator[str]:
    """Yield the chain for what came out of a tunnel and is delivered to this node itself."""
    # Addresses of this node that the inventory does not name (another program's, a second network's): policies steer
    # packets to them into the tunnel. The gateway's table has marked the packet; it drops packets to virtual addresses.
    taken_in = f"ct mark and {marks.tunneled} != 0 ct mark and {marks.numbers} != 0"
    out = f'iifname != "{ids.RETURN_DEVICE}" ct direction original'
    # Not the end: behind destination NAT it may be for the cluster port, which has its own guard.
    passed = f"{out} {taken_in} fib daddr type local return"
    # An answer that matches no connection must not make this node send a reset by its own address.
    yield chain("tunnel_deliver", [passed, "counter drop"])


def receive_rule(plan: Plan) -> str:
    """Return the rule for outer packets, also for those that came out of a tunnel: no tunnel is inside another one."""
    return f"udp dport {plan.port} goto tunnel_receive"


def input_rules(plan: Plan) -> Iterator[str]:
    """Yield the other rules for what is delivered to this node itself."""
    yield from sync_device.input_rules(plan)
    yield f"iifname {TUNNELS} jump tunnel_deliver"


def _receive(plan: Plan) -> Iterator[str]:
    """Yield the rules for outer packets."""
    yield 'iif "lo" jump tunnel_probe'
    yield f"meta nfproto ipv{10 - _family(plan)} counter drop"
    # A pod may write a node's address into its packets, but they do not come from where that node is.
    yield f"{from_elsewhere(plan)} counter drop"
    yield f"{FLAGS} != {ONLY_VNI} counter drop"
    yield f"{VNI} vmap @tunnel_to"
    yield "counter drop"


def _tunnels(plan: Plan) -> Iterator[str]:
    """Yield a chain for each kind of tunnel, the set that the chain compares with, and the map from VNIs to chains."""
    family = _family(plan)
    saddr = f"{KEYWORDS[family]} saddr"
    sources = []
    for inner in families(plan):
        name, key = f"inner_sources{inner}", f"{saddr} . {INNER_SOURCE[inner]}"
        yield _set(name, key, _pairs(plan, inner))
        sources.append(f"{ETHERTYPE} {ETHERTYPES[inner]} {key} @{name} accept")
    yield chain("tunnel_out", [*sources, "counter drop"])
    # Replies have the addresses of outside services.
    for role, nodes in (("back", egress_nodes(plan)), ("sync", sync_device.partners(plan))):
        yield _set(f"{role}_nodes", saddr, [address_of(node.address, family) for node in nodes])
        yield chain(f"tunnel_{role}", [f"{saddr} @{role}_nodes accept", "counter drop"])
    targets = {
        **{egress.vni: "out" for egress in plan.incoming},
        ids.RETURN_VNI: "back",
        ids.SYNC_VNI: "sync",
    }
    yield _set(
        "tunnel_to", VNI, [f"{vni:#x} : goto tunnel_{role}" for vni, role in targets.items()], verdicts=True
    )


def egress_nodes(plan: Plan) -> tuple[PlanNode, ...]:
    """Return the other nodes that may send answers: those that are or can be master of an egress IP."""
    able = serving(plan)
    return tuple(node for node in peers(plan) if node.name in able)


def _pairs(plan: Plan, family: int) -> Iterator[str]:
    """Yield each sender's address with each source that its packets have inside the tunnels."""
    for node in senders(plan):
        yield from _pairs_of(node.address, family, _family(plan))


@lru_cache(maxsize=1 << 14)
def _pairs_of(address: str, family: int, outer: int) -> tuple[str, str]:
    # Both kinds, so that no connection ends with a change of connectionSync.
    new, older = (int(ipaddress.ip_address(ids.inner(address, family, synced))) for synced in (False, True))
    return f"{address_of(address, outer)} . {new:#x}", f"{address_of(address, outer)} . {older:#x}"


def _family(plan: Plan) -> int:
    return underlay(plan.me) if plan.me else 4


def _set(name: str, key: str, elements: Iterable[str], verdicts: bool = False) -> str:
    """Return, as text, a set of values of the expression ``key``, or a map from such values to verdicts."""
    items = ", ".join(elements)
    kind, suffix = ("map", " : verdict") if verdicts else ("set", "")
    lines = [f"typeof {key}{suffix}", *([f"elements = {{ {items} }}"] if items else [])]
    return f"\t{kind} {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"
