"""A path through a gateway that is made by hand: the fewest rules and devices that carry a selected pod's packets.

It has one egress IP, one worker and one master with fixed numbers, no guards beside those of the tunnels' port, and no
failover. It is what the product's path is compared with. Devices, routes and ``ip rule`` lie beside the product's; of
the tables of nftables only one of the two sets is there at a time.
"""

from __future__ import annotations

from cni.datapath.objects import node_nft
from cni.kernel import ids
from cni.plan import Plan
from gateway_agent.gateway_rules.snat import gateway_nft
from gateway_agent.policy import keeper_config

from ..lab.namespace import Namespace
from ..netns.datapath_lab import MASK, MTU, NODES, SOURCES, TAG, Lab
from ..netns.datapath_lab import plan as lab_plan
from ..netns.packet_cases import grown

WORKER, MASTER = "w1", "g1"
OUT, BACK = "hand-out", "hand-back"
OUT_VNI, BACK_VNI, PORT = 77, 78, 4798
SLOT, REPLY, TUNNELED = 0x05000000, 0x06000000, 0x08000000
OUT_TABLE, BACK_TABLE = 8001, 8000
NEXT_HOP = "169.254.1.1"
PREFIX = "203.0.113.0/24"
FAMILIES = ("bridge", "inet")
TABLE = "handmade"
KEEP = f"{MASK ^ 0xFFFFFFFF:#010x}"
CLEAR = f"meta mark set meta mark and {KEEP}"
GROUP = ids.GROUP_BASE + TAG


def lay(lab: Lab) -> None:
    """Make devices, entries, routes and rules on both nodes."""
    for name in (WORKER, MASTER):
        machine = lab.nodes[name].machine
        for device, vni, number in ((OUT, OUT_VNI, 1), (BACK, BACK_VNI, 2)):
            machine.ip(
                f"link add {device} type vxlan id {vni} dstport {PORT} local {NODES[name]} nolearning",
                f"link set {device} address {_mac(name)} mtu {MTU} up",
                f"address add 169.254.0.{number}/32 dev {device}",
            )
            machine.sysctl({f"net/ipv4/conf/{device}/rp_filter": "2"})
    master, worker = lab.nodes[MASTER].machine, lab.nodes[WORKER].machine
    _lead(worker, OUT, MASTER, NEXT_HOP, SLOT, OUT_TABLE, f"default via {NEXT_HOP} dev {OUT} onlink")
    _lead(master, BACK, WORKER, NODES[WORKER], REPLY, BACK_TABLE, f"default dev {BACK}")


def _lead(
    machine: Namespace, device: str, to: str, neighbour: str, mark: int, table: int, route: str
) -> None:
    machine.run("bridge", "fdb", "replace", _mac(to), "dev", device, "dst", NODES[to])
    machine.ip(
        f"neigh replace {neighbour} lladdr {_mac(to)} dev {device} nud permanent",
        f"rule add pref 1000 fwmark {mark:#x}/{MASK:#x} lookup {table}",
        f"route add {route} table {table}",
        f"route add unreachable default metric {ids.UNREACHABLE_METRIC} table {table}",
    )


def remove(lab: Lab) -> None:
    """Take devices, entries, routes and rules away, and the tables of both paths."""
    none(lab)
    for name, mark, table in ((WORKER, SLOT, OUT_TABLE), (MASTER, REPLY, BACK_TABLE)):
        lab.nodes[name].machine.ip(
            f"link delete {OUT}",
            f"link delete {BACK}",
            f"rule delete pref 1000 fwmark {mark:#x}/{MASK:#x} lookup {table}",
            f"route flush table {table}",
        )


def _mac(name: str) -> str:
    return "02:77:" + ":".join(f"{int(octet):02x}" for octet in NODES[name].split("."))


def handmade(lab: Lab) -> None:
    """Put the rules of the path by hand in place of ours."""
    for name in (WORKER, MASTER):
        lab.nodes[name].nft(_without_ours() + _rules(name))


def ours(lab: Lab, further: int) -> None:
    """Put our rules in place of those by hand. ``further``: see :func:`tests.netns.packet_cases.grown`."""
    for name in (WORKER, MASTER):
        planned = grown(name, further) if further else lab_plan(name)
        lab.nodes[name].nft(_without_handmade() + node_nft(planned) + gateway_nft(planned) + _fence(planned))


def none(lab: Lab) -> None:
    """Take all rules away."""
    for name in (WORKER, MASTER):
        lab.nodes[name].nft(_without_ours() + _without_handmade())


def _fence(planned: Plan) -> str:
    return keeper_config.fence(planned, ["eth0"])


def _without_handmade() -> str:
    return "".join(f"add table {f} {TABLE}\ndelete table {f} {TABLE}\n" for f in FAMILIES)


def _without_ours() -> str:
    tables = (
        f"bridge {ids.NFT_NODE_BRIDGE}",
        f"inet {ids.NFT_NODE_INET}",
        f"inet {ids.NFT_GATEWAY}",
        f"netdev {ids.NFT_FENCE}",
    )
    return "".join(f"add table {table}\ndelete table {table}\n" for table in tables)


def _rules(name: str) -> str:
    nodes = ", ".join(NODES.values())
    source = SOURCES.get(name, "")
    leave = (
        f'ct mark and {MASK:#x} == {SLOT | TUNNELED:#x} oifname "eth1" snat ip to {source}' if source else ""
    )
    return (
        _without_handmade()
        + f"""
table bridge {TABLE} {{
  chain tag {{
    type filter hook prerouting priority -300;
    iifgroup vmap {{ {GROUP} : jump slot1 }}
  }}
  chain slot1 {{
    meta mark set meta mark and {KEEP} or {SLOT:#x}
  }}
}}
table inet {TABLE} {{
  map dst4 {{ type ipv4_addr : verdict; flags interval; elements = {{ {PREFIX} : goto go1 }}; }}
  chain steer {{
    type filter hook prerouting priority dstnat + 10;
    iifname "{OUT}" ct mark set ct mark and {KEEP} or {SLOT | TUNNELED:#x}
    ct direction reply meta mark and {MASK:#x} != 0 {CLEAR}
    ct direction reply ct mark and {TUNNELED:#x} != 0 meta mark set meta mark and {KEEP} or {REPLY:#x}
    ct direction original iifgroup {GROUP} goto set1
    ct direction original meta mark and {MASK:#x} == {SLOT:#x} goto set1
  }}
  chain set1 {{
    {CLEAR}
    ip daddr vmap @dst4
  }}
  chain go1 {{
    ct mark set ct mark and {KEEP} or {SLOT:#x}
    meta mark set meta mark and {KEEP} or {SLOT:#x}
  }}
  chain nat {{
    type nat hook postrouting priority srcnat - 10;
    oifname "{OUT}" snat ip to {NODES[name]}
    {leave}
  }}
  chain encap {{
    type filter hook postrouting priority srcnat + 200;
    oifname {{ "{OUT}", "{BACK}" }} tcp flags syn tcp option maxseg size set rt mtu
    oifname {{ "{OUT}", "{BACK}" }} {CLEAR}
  }}
  chain input_guard {{
    type filter hook input priority filter - 10;
    udp dport {PORT} ip saddr != {{ {nodes} }} drop
  }}
  chain forward_guard {{
    type filter hook forward priority filter - 10;
    udp dport {PORT} drop
  }}
}}
"""
    )
