"""Rules for TCP connections that another master opened: each continues, or ends with a reset. Pure.

Theory of operation. Without ``connectionSync`` a new master knows no connection. Connection tracking picks up a
connection with a virtual address in mid-stream (``nf_conntrack_tcp_loose``), at the next packet of its pod, and the
connection continues if SNAT gives it the source port that it had. Two connections of different workers may have the
same source port: then the previous master had replaced the port of one of them, and this node cannot know of which.

* The second of the two finds its port taken, and the kernel drops its first packet when the connection would be
  confirmed. So a connection that is still not confirmed at a later packet (``picked_up`` and no longer ``recent``) is
  reset.
* The first of the two gets the port, whether rightly or wrongly. If wrongly, the other end takes its segments for those
  of the other connection, outside of any window, and answers each with an empty acknowledgement (RFC 9293, section
  3.10.7.4). So a connection that repeats a segment, though the segment was answered, is reset: at the first such
  retransmission if another connection needs the port (``contested_ports``), else at the second
  (``suspected_segments``), since an answer can be lost.

Only connections that were picked up within ``WATCH_S`` are watched. In basic mode the address changes with the master,
so no connection can continue: all are reset.
"""

from __future__ import annotations

from collections.abc import Iterator

from cni.datapath.nft_blocks import KEYWORDS, MIDDLE, TUNNELS, Marks, chain, dispatch
from cni.kernel import ids
from cni.plan import PlanEgressIP

WATCH_S = 20
"""Seconds for which a connection is watched after its pick-up: TCP retransmits four or five times within that time."""
RECENT_TTL = "100ms"
"""Half of the shortest time after which TCP retransmits (``TCP_RTO_MIN``)."""
HASH_SEED = 0xE96B
"""One seed for all rules, so that each rule computes the same number for a segment."""
MAX_ELEMENTS = 65536
"""Largest number of connections that are watched; the others are neither helped nor reset."""


def chains(ready: tuple[PlanEgressIP, ...], marks: Marks) -> Iterator[str]:
    """Yield sets and chains. ``ready``: the egress IPs that this node can serve."""
    families = sorted({egress.family for egress in ready if egress.address})
    for family in families:
        yield from _sets(family)
        yield chain(f"first_packet{family}", _first_packets(family))
        yield chain(f"port_taken{family}", _port_taken(family))
        yield chain(f"data_segment{family}", _data_segment(family))
        yield chain(f"retransmission{family}", _retransmission(family))
        yield chain(f"empty_ack{family}", _empty_ack(family))
        # Until the first reply the state is new, also of a connection that has its port and is confirmed.
        unknown = f"ct status & confirmed == 0 goto first_packet{family}"
        yield chain(f"middle{family}", [unknown])
    if any(not egress.address for egress in ready):
        yield chain("middle_basic", ["counter reject with tcp reset"])
    by_tunnel = {f'"{e.device}"': f"middle{e.family}" if e.address else "middle_basic" for e in ready}
    yield dispatch("middle", "iifname", "ifname", by_tunnel)
    if families:
        yield chain("pickup_out", _from_pods(families))
        yield chain("pickup_back", _to_pods(families))
    yield chain("tcp_pickup", _rules(families, marks), "filter hook forward priority filter - 10")


def _rules(families: list[int], marks: Marks) -> Iterator[str]:
    # First what has nothing to do with us: what came out of a tunnel has the mark of the tunnel.
    yield f"{marks.foreign} accept"
    # Packets by a tunnel of no egress IP that this node can serve are dropped by the node's own table, too.
    middle = f'iifname {TUNNELS} iifname != "{ids.RETURN_DEVICE}"'
    yield f"ct state new {middle} {MIDDLE} goto middle"
    if families:
        yield f"meta l4proto tcp ct state established iifname {TUNNELS} goto pickup_out"
        yield f'meta l4proto tcp ct state established oifname "{ids.RETURN_DEVICE}" goto pickup_back'


def _from_pods(families: list[int]) -> Iterator[str]:
    """Yield the rules for segments with data."""
    # With data for certain: headers are not longer than that. Each segment is looked up once at most.
    for loaded in ("meta length <= 100 tcp flags & (syn | rst | psh) == psh", f"meta length > 100 {MIDDLE}"):
        for family in families:
            of = f"meta nfproto ipv{family} {_ends(family)}"
            yield f"{loaded} {of} @picked_up{family} goto data_segment{family}"


def _to_pods(families: list[int]) -> Iterator[str]:
    """Yield the rules for empty acknowledgements."""
    for family in families:
        empty = "tcp flags & (fin | syn | rst | psh | ack) == ack meta length <= 100"
        of = f"meta nfproto ipv{family} {empty} {_ends_back(family)}"
        yield f"{of} @picked_up{family} goto empty_ack{family}"


def _ends(family: int) -> str:
    """Return the key of a connection, for packets of the pod."""
    keyword = KEYWORDS[family]
    return f"{keyword} saddr . tcp sport . {keyword} daddr . tcp dport"


def _ends_back(family: int) -> str:
    """Return the same key, for packets of the other end."""
    keyword = KEYWORDS[family]
    return f"{keyword} daddr . tcp dport . {keyword} saddr . tcp sport"


def _segment_of(family: int) -> str:
    """Return the key of a segment, a number of 32 bits: nft 1.0.6 crashes when it lists ends with sequence numbers."""
    return f"jhash {_ends(family)} . tcp sequence mod 0xffffffff seed {HASH_SEED:#x}"


def _sets(family: int) -> Iterator[str]:
    ends, keyword = _ends(family), KEYWORDS[family]
    yield _memory(f"picked_up{family}", ends)
    yield _memory(f"recent{family}", ends, RECENT_TTL)
    # The outside end, and the port that two connections need.
    yield _memory(f"contested_ports{family}", f"{keyword} daddr . tcp dport . tcp sport")
    yield _memory(f"acknowledged{family}", ends)
    for name in ("sent_segments", "suspected_segments"):
        yield _memory(f"{name}{family}", "tcp sequence")


def _memory(name: str, key: str, lasting: str = f"{WATCH_S}s") -> str:
    """Return the text of a set that rules fill."""
    lines = (f"typeof {key}", f"size {MAX_ELEMENTS}", "flags dynamic,timeout", f"timeout {lasting}")
    return f"\tset {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


def _first_packets(family: int) -> Iterator[str]:
    # If a set is full, an ``add`` ends the evaluation of its rule: so the verdicts are in rules of their own.
    ends = _ends(family)
    # Two processors may each handle a packet of a connection that is not confirmed yet.
    yield f"{ends} @recent{family} accept"
    yield f"{ends} @picked_up{family} goto port_taken{family}"
    yield f"add @recent{family} {{ {ends} }}"
    yield f"add @picked_up{family} {{ {ends} }}"
    yield f"add @sent_segments{family} {{ {_segment_of(family)} }}"


def _port_taken(family: int) -> Iterator[str]:
    keyword = KEYWORDS[family]
    yield f"add @contested_ports{family} {{ {keyword} daddr . tcp dport . tcp sport }}"
    yield "counter reject with tcp reset"


def _data_segment(family: int) -> Iterator[str]:
    segment = _segment_of(family)
    yield f"{segment} @sent_segments{family} goto retransmission{family}"
    yield f"add @sent_segments{family} {{ {segment} }}"


def _retransmission(family: int) -> Iterator[str]:
    ends, keyword = _ends(family), KEYWORDS[family]
    segment = _segment_of(family)
    yield f"{ends} != @acknowledged{family} accept"
    yield f"{keyword} daddr . tcp dport . tcp sport @contested_ports{family} counter reject with tcp reset"
    # No other connection needs the port, and an answer can be lost: two answers are required.
    yield f"{segment} @suspected_segments{family} counter reject with tcp reset"
    yield f"delete @acknowledged{family} {{ {ends} }}"
    yield f"add @suspected_segments{family} {{ {segment} }}"


def _empty_ack(family: int) -> Iterator[str]:
    yield f"add @acknowledged{family} {{ {_ends_back(family)} }}"
