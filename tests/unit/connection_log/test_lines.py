"""Lines of the log: written, searched and read."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.connection_log import lines
from gateway_agent.connection_log.halves import Half
from gateway_agent.connection_log.recorder import Record

NAMES = ("time", "event", "gateway", "egressIP", "egressPort", "protocol", "destination", "destinationPort",
         "namespace", "pod", "node", "nodeAddress", "nodePort", "podAddress", "podPort", "bytesOut", "bytesIn",
         "by")  # fmt: skip
END = st.tuples(st.ip_addresses().map(str), st.integers(0, 0xFFFF))
NAME = st.text(max_size=20)
HALF = st.builds(Half, NAME, END, NAME, END, NAME, END, st.tuples(NAME, NAME), END)
RECORD = st.builds(
    Record, st.sampled_from(["start", "end"]), HALF, st.integers(-1, 2**63), st.integers(-1, 2**63)
)


@given(st.floats(0, 4e9), RECORD)
def test_what_is_read_is_what_was_written(seconds: float, record: Record) -> None:
    line = lines.line(seconds, "g1", record)
    assert line.count(b"\n") == 1
    assert tuple(json.loads(line)) == NAMES
    found = lines.read(line)
    assert found is not None
    assert found[1] == record
    assert abs(found[0] - seconds) <= 0.0011
    assert lines.by_egress(record.half.shown) in line
    assert lines.by_tunnel(record.half.inside) in line


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_anything_else_is_no_line(text: bytes) -> None:
    assert lines.read(text) is None


def test_an_absent_port_or_number_is_null() -> None:
    half = Half(
        "partner",
        ("172.16.0.50", 0),
        "tcp",
        ("203.0.113.10", 443),
        "w1",
        ("10.0.0.21", 5),
        ("a", "b"),
        ("", 0),
    )
    found = json.loads(lines.line(1.5, "w1", Record("start", half, -1, -1)))
    assert found["time"] == "1970-01-01T00:00:01.500Z"
    assert [found[name] for name in ("egressPort", "podPort", "bytesOut", "bytesIn")] == [None] * 4
