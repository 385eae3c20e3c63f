"""Files of keys: read when they change, kept when they cannot be read."""

from __future__ import annotations

from pathlib import Path

from gateway_agent.adapters.files.key_files import KeyFiles


def test_keys_are_read_when_their_files_change_and_stay_when_they_cannot_be_read(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"the old key of this test")
    new.write_bytes(b"the new key of this test")
    files = KeyFiles()
    assert files.follow(str(old), ())
    assert not files.follow(str(old), ())
    assert files.follow(str(old), (str(new),))
    ring = files.ring
    assert ring is not None
    assert files.follow(str(new), (str(old),))
    assert files.ring is not None
    assert files.ring.numbers == ring.numbers[::-1]
    assert files.follow(str(old), (str(new),))
    assert len(ring.numbers) == 2
    new.write_bytes(b"short")
    assert not files.follow(str(old), (str(new),))
    assert (files.ring, str(new) in files.problem) == (ring, True)
    old.unlink()
    assert not files.follow(str(old), (str(new),))
    assert files.ring == ring
    old.write_bytes(b"the old key of this test")
    new.write_bytes(b"another key of this test")
    assert files.follow(str(old), (str(new),))
    assert files.ring not in (None, ring)
    assert files.problem == ""


def test_a_key_is_dropped_with_its_file_and_a_missing_one_stops_nothing(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"the old key of this test")
    files = KeyFiles()
    assert files.follow(str(old), (str(new),))
    assert files.ring is not None
    assert len(files.ring.numbers) == 1
    new.write_bytes(b"the new key of this test")
    assert files.follow(str(old), (str(new),))
    assert len(files.ring.numbers) == 2
    new.unlink()
    assert files.follow(str(old), (str(new),))
    assert len(files.ring.numbers) == 1
