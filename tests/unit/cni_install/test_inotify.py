"""Changes of a configuration directory wake the watch."""

from __future__ import annotations

from pathlib import Path

from gateway_agent.cni_install import drop_in
from gateway_agent.cni_install.inotify import Watch

from .test_drop_in import ENTRY


def test_a_change_is_seen_in_the_directory_that_the_runtime_watches(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    watch = Watch([tmp_path])
    try:
        drop_in.put(tmp_path, "net", ENTRY)
        assert watch.wait(5)
        drop_in.put(tmp_path, "net", ENTRY)
        assert not watch.wait(0)
    finally:
        watch.close()
