"""TCP connections that another master opened, as nftables rules: each goes on, or ends with a reset. Pure.

Theory of operation. Without ``connectionSync`` a new master knows no connection. Connection tracking picks up a
connection with a virtual address in its middle (``nf_conntrack_tcp_loose``), by the next packet of its pod, and the
connection goes on if SNAT gives it the source port that it had. Two connections of different workers may have the same
source port: then the master before had replaced the port of one of them, and this node cannot know of which.

* The second of the two that comes here finds its port taken, and the kernel drops its first packet when the connection
  would be confirmed. So a connection that is still not confirmed with a later packet (``picked_up`` and no longer
  ``recent``) is reset.
* The first of the two gets the port, be it right or wrong. If it is wrong, the other end takes its segments for the
  other connection's, out of every window, and answers each with an empty acknowledgement (RFC 9293, section 3.10.7.4).
  So a connection that sends the same segment again and again, though the segment is answered, is reset: at the first
  such retransmission if another connection wants the port (``contested_ports``), else at the second
  (``suspected_segments``), since an answer can be lost.

Only connections that were picked up within ``WATCH_S`` are looked at. In basic mode the address changes with the
master, so no connection can go on: all are reset.
"""

from __future__ import annotations

from collections.abc import Iterator

from cni.datapath.nft_blocks import KEYWORDS, MIDDLE, chain, dispatch
from cni.kernel import ids
from cni.plan import PlanEgressIP

WATCH_S = 20
"""Seconds that a connection is looked at after it was picked up: TCP sends four or five times within that."""
RECENT_TTL = "100ms"
"""TCP sends again after twice that at the earliest (``TCP_RTO_MIN``)."""
HASH_SEED = 0xE96B
"""One seed for all rules, so that each gets the same number for a segment."""
MAX_ELEMENTS = 65536
"""Connections that are looked at, at most; the others go on as they can."""


def chains(ready: tuple[PlanEgressIP, ...]) -> Iterator[str]:
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
    yield chain("tcp_pickup", _rules(families), "filter hook forward priority filter - 10")


def _rules(families: list[int]) -> Iterator[str]:
    # What comes by a tunnel of no egress IP that this node can serve is dropped by the node's own table, too.
    middle = f'iifname "{ids.DEVICE_PREFIX}*" iifname != "{ids.RETURN_DEVICE}"'
    yield f"{middle} ct state new {MIDDLE} goto middle"
    for family in families:
        of = f"ct state established meta nfproto ipv{family}"
        # With data for certain: headers are not longer than that.
        for loaded in ("tcp flags & (syn | rst | psh) == psh", f"{MIDDLE} meta length > 100"):
            from_pod = f'iifname "{ids.DEVICE_PREFIX}*" {of} {loaded} {_ends(family)}'
            yield f"{from_pod} @picked_up{family} goto data_segment{family}"
        empty = "tcp flags & (fin | syn | rst | psh | ack) == ack meta length <= 100"
        to_pod = f'oifname "{ids.RETURN_DEVICE}" {of} {empty} {_ends_back(family)}'
        yield f"{to_pod} @picked_up{family} goto empty_ack{family}"


def _ends(family: int) -> str:
    """Return the key of a connection, by a packet of the pod."""
    keyword = KEYWORDS[family]
    return f"{keyword} saddr . tcp sport . {keyword} daddr . tcp dport"


def _ends_back(family: int) -> str:
    """Return the same key, by a packet of the other end."""
    keyword = KEYWORDS[family]
    return f"{keyword} daddr . tcp dport . {keyword} saddr . tcp sport"


def _segment_of(family: int) -> str:
    """Return the key of a segment, a number of 32 bits: nft 1.0.6 crashes when it lists ends with sequence numbers."""
    return f"jhash {_ends(family)} . tcp sequence mod 0xffffffff seed {HASH_SEED:#x}"


def _sets(family: int) -> Iterator[str]:
    ends, keyword = _ends(family), KEYWORDS[family]
    yield _memory(f"picked_up{family}", ends)
    yield _memory(f"recent{family}", ends, RECENT_TTL)
    # The outside's end and the port that two want.
    yield _memory(f"contested_ports{family}", f"{keyword} daddr . tcp dport . tcp sport")
    yield _memory(f"acknowledged{family}", ends)
    for name in ("sent_segments", "suspected_segments"):
        yield _memory(f"{name}{family}", "tcp sequence")


def _memory(name: str, key: str, lasting: str = f"{WATCH_S}s") -> str:
    """Return a set that rules fill, as text."""
    lines = (f"typeof {key}", f"size {MAX_ELEMENTS}", "flags dynamic,timeout", f"timeout {lasting}")
    return f"\tset {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


def _first_packets(family: int) -> Iterator[str]:
    # If a set is full, an ``add`` ends its rule: so the verdicts are in rules of their own.
    ends = _ends(family)
    # Two processors may have a packet each of a connection that is not confirmed yet.
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
    # No other connection wants the port, and an answer can be lost: two answers are needed.
    yield f"{segment} @suspected_segments{family} counter reject with tcp reset"
    yield f"delete @acknowledged{family} {{ {ends} }}"
    yield f"add @suspected_segments{family} {{ {segment} }}"


def _empty_ack(family: int) -> Iterator[str]:
    yield f"add @acknowledged{family} {{ {_ends_back(family)} }}"
