from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway_agent.lease.voting.voter_set import Memory, VoterSet
from gateway_agent.lease_daemon.voter_state_file import PAGE, Stored, VoterStateFile

MEMORY = Memory(
    VoterSet(3, ("a", "b", "c")), None, (7, "a"), 250, granted_until=1_000_000_000_000, learned_at=5
)


def later(until: int, *members: str) -> Memory:
    voters = VoterSet(3, members) if members else MEMORY.current
    return msgspec.structs.replace(MEMORY, granted_until=until, current=voters)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "voters.json"


def test_the_next_process_finds_what_was_stored_last(path: Path) -> None:
    assert VoterStateFile(path).load() is None
    file = VoterStateFile(path)
    for memory in (MEMORY, later(1_000_000_000_001), later(9)):
        file.store(memory)
        assert VoterStateFile(path).load() == memory
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_written_in_place(path: Path) -> None:
    file = VoterStateFile(path)
    file.store(MEMORY)
    before = path.stat().st_ino
    file.store(later(2_000_000_000_000))
    assert path.stat().st_ino == before


def test_a_file_that_was_removed_or_replaced_is_created_again(path: Path) -> None:
    file = VoterStateFile(path)
    file.store(MEMORY)
    path.unlink()
    file.store(later(1))
    assert VoterStateFile(path).load() == later(1)
    path.unlink()
    path.write_bytes(b"old")
    file.store(later(2))
    assert VoterStateFile(path).load() == later(2)


def test_what_is_longer_than_a_page_is_stored_too(path: Path) -> None:
    file = VoterStateFile(path)
    long = later(1, *(letter * 250 for letter in "abcdefghijklmnopqrstu"))
    for memory in (MEMORY, long, later(2, *reversed(long.current.members)), MEMORY):
        file.store(memory)
        assert VoterStateFile(path).load() == memory
    assert path.stat().st_size == PAGE


def test_what_another_boot_has_left_does_not_count(path: Path) -> None:
    """On a disk it may be older than the last promise: it is not synced, and a power cut loses what came after."""
    path.write_bytes(msgspec.json.encode(Stored("another", MEMORY)))
    file = VoterStateFile(path)
    assert file.load() is None
    file.store(MEMORY)
    assert VoterStateFile(path).load() == MEMORY


def test_where_it_cannot_be_stored_nothing_old_is_left(path: Path) -> None:
    file = VoterStateFile(path)
    file.store(MEMORY)
    # Where the next one would be made, something is in the way.
    path.with_name(f".{path.name}").mkdir()
    path.write_bytes(b"old")
    path.rename(path.with_name("elsewhere"))
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="directory"):
        file.store(later(1))
    assert VoterStateFile(path).load() is None
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * PAGE, b'{"boot": "\xff"}', b'{"boot": 1}'])
def test_a_spoilt_file_is_none(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert VoterStateFile(path).load() is None
