"""Objects of the node's store, read without the agent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway_agent.config import AgentConfig, FilesStoreConfig
from gateway_agent.ctl.objects.stored_objects import inventory
from gateway_agent.manifests import parsing

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: pay, labels: {team: pay}}\n"


@pytest.mark.parametrize("odd", ["pipe", "link in a circle", "no text", "too large"])
def test_what_an_agent_would_not_read_is_passed_over(tmp_path: Path, odd: str) -> None:
    """A pipe that nobody writes to would be waited for, for ever."""
    path = tmp_path / "00-odd.yaml"
    match odd:
        case "pipe":
            os.mkfifo(path)
        case "link in a circle":
            path.symlink_to(path.name)
        case "no text":
            path.write_bytes(b"\xff")
        case "too large":
            path.write_text(NAMESPACE.replace("pay", "odd") + "#" * parsing.MAX_FILE_BYTES)
    (tmp_path / "10-good.yaml").write_text(NAMESPACE)
    found = inventory(AgentConfig("w1", FilesStoreConfig(tmp_path)))
    assert dict(found.namespaces) == {"pay": {"team": "pay"}}
