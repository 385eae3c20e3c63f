from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway_agent.shell import key


def test_a_missing_key_is_made_and_told(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cluster.key"
    assert "copy it to every node" in key.provide(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_bytes().strip()) == 2 * key.LENGTH
    assert key.provide(path) == ""


def test_agents_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    with ThreadPoolExecutor(8) as pool:
        notices = list(pool.map(lambda _: key.provide(path), range(8)))
    assert sum(bool(notice) for notice in notices) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["cluster.key"]


def test_a_key_that_others_can_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    path.write_text("k" * 32)
    path.chmod(0o644)
    assert "chmod 600" in key.provide(path)


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    path.write_text("secret")
    with pytest.raises(OSError, match="16 bytes"):
        key.provide(path)
