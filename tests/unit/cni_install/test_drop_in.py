"""The drop-in file in a directory with those of others."""

from __future__ import annotations

import json
from pathlib import Path

from gateway_agent.cni_install import drop_in

ENTRY = {"type": "egress-gateway", "socket": "/run/a.sock"}


def test_it_is_written_once(tmp_path: Path) -> None:
    assert drop_in.put(tmp_path, "net", ENTRY)
    assert json.loads((tmp_path / "net" / drop_in.NAME).read_text()) == ENTRY
    assert not drop_in.put(tmp_path, "net", ENTRY)
    assert drop_in.put(tmp_path, "net", {"type": "egress-gateway"})
    assert sorted(path.name for path in tmp_path.rglob("*")) == [drop_in.NAME, "net"]


def test_what_no_text_is_becomes_the_entry(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / drop_in.NAME).write_bytes(b"\xff")
    assert drop_in.put(tmp_path, "net", ENTRY)
    assert json.loads((tmp_path / "net" / drop_in.NAME).read_text()) == ENTRY


def test_only_ours_are_removed(tmp_path: Path) -> None:
    for network in ("net", "old", "other"):
        drop_in.put(tmp_path, network, ENTRY)
    (tmp_path / "other" / "50-theirs.conf").write_text("{}")
    (tmp_path / "empty").mkdir()
    removed = drop_in.remove(tmp_path, but="net")
    assert [path.parent.name for path in removed] == ["old", "other"]
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["empty", "net", f"net/{drop_in.NAME}", "other", "other/50-theirs.conf"]
    assert drop_in.remove(tmp_path, but="net") == []
