"""Lines for the journal, by a socket at its path."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_agent.connection_log import lines
from gateway_agent.connection_log.halves import UNKNOWN_END, UNKNOWN_POD, Half
from gateway_agent.connection_log.journal import IDENTIFIER, INSIDE, SHOWN, Journal
from gateway_agent.connection_log.recorder import START, Record

HALF = Half(
    "partner",
    ("172.16.0.50", 1),
    "tcp",
    ("203.0.113.10", 443),
    "w1",
    ("10.0.0.21", 2),
    UNKNOWN_POD,
    UNKNOWN_END,
)
LINE = lines.line(10.0, "g1", Record(START, HALF, -1, -1))


@contextlib.contextmanager
def journald(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(path))
        made.settimeout(5)
        yield made


def test_each_line_is_an_entry_with_its_fields(tmp_path: Path) -> None:
    with journald(tmp_path / "socket") as server:
        assert Journal(tmp_path / "socket").append(LINE + LINE) == 2
        for _ in range(2):
            fields = dict(field.split(b"=", 1) for field in server.recv(65536).splitlines())
            ends = {SHOWN.encode(): b"172.16.0.50 1", INSIDE.encode(): b"10.0.0.21 2"}
            assert fields.items() >= ends.items()
            assert fields.keys() - ends.keys() == {b"PRIORITY", b"SYSLOG_IDENTIFIER", b"MESSAGE"}
            assert fields[b"SYSLOG_IDENTIFIER"] == IDENTIFIER.encode()
            assert json.loads(fields[b"MESSAGE"]) == json.loads(LINE)


def test_an_end_that_is_not_known_is_no_field(tmp_path: Path) -> None:
    inner = lines.line(10.0, "w1", Record(START, HALF._replace(shown=("172.16.0.50", 0)), -1, -1))
    with journald(tmp_path / "socket") as server:
        Journal(tmp_path / "socket").append(inner)
        assert SHOWN.encode() not in server.recv(65536)


def test_a_journal_that_is_away_takes_nothing_and_is_found_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "socket")
    with pytest.raises(FileNotFoundError):
        journal.append(LINE)
    with journald(tmp_path / "socket"):
        assert journal.append(LINE) == 1
    with pytest.raises(ConnectionRefusedError):
        journal.append(LINE)
    with journald(tmp_path / "socket") as server:
        assert journal.append(LINE) == 1
        assert b"172.16.0.50" in server.recv(65536)


def test_a_journal_that_starts_again_costs_no_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "socket")
    with journald(tmp_path / "socket"):
        journal.append(LINE)
    with journald(tmp_path / "socket") as server:
        assert journal.append(LINE) == 1
        assert server.recv(65536)


def test_a_journal_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway_agent.connection_log.journal.TIMEOUT_S", 0.05)
    with journald(tmp_path / "socket"):
        done = Journal(tmp_path / "socket").append(LINE * 100_000)
        assert 0 < done < 100_000
