"""The files of the log are searched."""

from __future__ import annotations

from pathlib import Path

from gateway_agent.connection_log import lines
from gateway_agent.connection_log.halves import End
from gateway_agent.connection_log.recorder import START, Record
from gateway_agent.connection_log.search import CHUNK_BYTES, search
from gateway_agent.connection_log.sightings import Query

from .test_sightings import INNER, INSIDE, OUTER, SHOWN


def test_the_files_of_a_log_are_searched(tmp_path: Path) -> None:
    """Lines that lie across the borders of what is read at once are found, too."""
    path = tmp_path / "log"
    numbers = range(CHUNK_BYTES // 300 * 2)
    for file, begin in ((path, 0), (tmp_path / "log.1", 1)):
        written = (
            lines.line(number, "g1", Record(START, OUTER._replace(shown=shown(number)), -1, -1))
            for number in numbers[begin::2]
        )
        file.write_bytes(b"".join(written))
    assert path.stat().st_size > CHUNK_BYTES / 2
    for number in numbers:
        found = search(path, 1, Query(shown(number)))
        assert [each.seconds for each in found] == [number], number
    assert not search(path, 1, Query(INNER.shown))
    assert len(search(path, 1, Query(INSIDE, inside=True))) == len(numbers)
    assert not search(tmp_path / "nothing", 3, Query(SHOWN))


def shown(number: int) -> End:
    return "172.16.0.50", 1000 + number
