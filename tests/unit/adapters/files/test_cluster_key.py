from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway_agent.adapters.files import cluster_key
from gateway_agent.adapters.files.key_files import KeyFiles


def test_a_missing_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cluster.key"
    assert cluster_key.make(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_bytes().strip()) == 2 * cluster_key.KEY_BYTES
    assert not cluster_key.make(path)
    assert cluster_key.problems(path) == ()


def test_agents_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: cluster_key.make(path), range(8)))
    assert sum(made) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["cluster.key"]


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"k" * 32, 0o644, "mode 0644"),
        (b"k" * 32, 0o660, "mode 0660"),
        (b"secret", 0o600, "has 6 bytes"),
        (b"", 0o600, "has 0 bytes"),
        (b"    \n" * 8, 0o600, "has 0 bytes"),
        (b"k" * 5000, 0o600, "more than 4096 bytes"),
    ],
)
def test_a_key_file_that_is_no_good_is_a_problem(
    tmp_path: Path, content: bytes, mode: int, words: str
) -> None:
    path = tmp_path / "cluster.key"
    path.write_bytes(content)
    path.chmod(mode)
    (problem,) = cluster_key.problems(path)
    assert words in problem.message
    assert problem.source == str(path)


def test_a_key_that_is_missing_or_no_file_is_a_problem(tmp_path: Path) -> None:
    assert "is missing" in cluster_key.problems(tmp_path / "cluster.key")[0].message
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in cluster_key.problems(tmp_path / "pipe")[0].message


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
