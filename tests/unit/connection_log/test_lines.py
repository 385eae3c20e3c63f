"""Lines of the log: written, searched and read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.connection_log import lines, report
from gateway_agent.connection_log.halves import Half
from gateway_agent.connection_log.log_file import LogFile, files
from gateway_agent.connection_log.recorder import Record
from gateway_agent.connection_log.report import Report

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


def test_files_are_rotated_before_they_are_too_large(tmp_path: Path) -> None:
    path = tmp_path / "log" / "connections.log"
    log = LogFile(path, max_bytes=100, keep=2)
    for number in range(8):
        log.append(f"{number:>49}\n".encode())
    log.close()
    kept = [file.read_text().split() for file in files(path, 2)]
    assert kept == [["6", "7"], ["4", "5"], ["2", "3"]]
    assert {file.name for file in path.parent.iterdir()} == {file.name for file in files(path, 2)}
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in path.parent.iterdir())


def test_without_older_files_the_newest_begins_anew(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", max_bytes=10, keep=0)
    log.append(b"12345678\n")
    log.append(b"abcdefgh\n")
    assert (tmp_path / "log").read_bytes() == b"abcdefgh\n"


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(path, max_bytes=1000, keep=1)
    log.append(b"one\n")
    os.rename(path, tmp_path / "elsewhere")
    log.append(b"two\n")
    assert path.read_bytes() == b"two\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_an_error_and_the_next_line_is_tried(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", max_bytes=1000, keep=1)
    log.append(b"one\n")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._descriptor)
    os.close(full)
    (tmp_path / "log").unlink()
    log.append(b"two\n")
    assert (tmp_path / "log").read_bytes() == b"two\n"


def test_the_report(tmp_path: Path) -> None:
    assert report.read(tmp_path) == Report()
    whole = Report(5, 2, 1, ("trouble",))
    report.write(tmp_path, whole)
    assert report.read(tmp_path) == whole
    (tmp_path / report.REPORT).write_text("{")
    assert report.read(tmp_path) == Report()
