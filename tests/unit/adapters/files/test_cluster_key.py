from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway_agent.adapters.files import cluster_key


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
    ("content", "mode", "message"),
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
    tmp_path: Path, content: bytes, mode: int, message: str
) -> None:
    path = tmp_path / "cluster.key"
    path.write_bytes(content)
    path.chmod(mode)
    (problem,) = cluster_key.problems(path)
    assert message in problem.message
    assert problem.source == str(path)


def test_a_key_that_is_missing_or_no_file_is_a_problem(tmp_path: Path) -> None:
    assert "is missing" in cluster_key.problems(tmp_path / "cluster.key")[0].message
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in cluster_key.problems(tmp_path / "pipe")[0].message
