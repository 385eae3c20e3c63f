"""``egressctl push``, against an agent that answers what a test tells it to."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway_agent.ctl.__main__ import main
from tests.unit.ctl.objects.test_validate import POLICY
from tests.unit.ctl.test_egressctl import Agent, agent
from tests.unit.manifests.manifest_texts import GATEWAY

__all__ = ["agent"]
ROWS = [
    {"node": "w1", "outcome": "applied", "detail": ""},
    {"node": "w2", "outcome": "unreachable", "detail": "it does not answer"},
]
BEGUN: dict[str, Any] = {
    "push": 3, "done": False, "set": "", "total": 2, "failure": "", "hint": "", "nodes": [],
}  # fmt: skip
ENDED = {**BEGUN, "done": True, "set": "8 (0123456789ab)", "nodes": ROWS}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "edit"
    path.mkdir()
    (path / "gateway.yaml").write_text(GATEWAY)
    (path / "policy.yml").write_text(POLICY)
    (path / "notes.txt").write_text("mine")
    return path


def push(agent: Agent, directory: Path, *options: str) -> int:
    return main(["--config", str(agent.config), "push", str(directory), *options])


def test_the_manifests_go_to_the_agent_and_each_node_has_a_line(
    agent: Agent, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.answers = {"push": BEGUN, "pushed": ENDED}
    assert push(agent, directory, "--to", "w1", "w2", "--force") == 1
    assert agent.asked == [
        {
            "call": "push",
            "files": {"gateway.yaml": GATEWAY, "policy.yml": POLICY},
            "to": ["w1", "w2"],
            "force": True,
        },
        {"call": "pushed", "push": 3},
    ]
    shown = capsys.readouterr()
    assert [line.split()[:2] for line in shown.out.splitlines()[1:3]] == [
        ["w1", "applied"],
        ["w2", "unreachable"],
    ]
    assert "set 8 (0123456789ab): on 1 of 2 nodes" in shown.out
    assert "of 2 nodes" not in shown.err, "no progress without a terminal"


def test_the_exit_code_says_whether_all_nodes_have_it(
    agent: Agent, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "outcome": outcome} for row, outcome in zip(ROWS, ("applied", "unchanged"), strict=True)]
    agent.answers = {"push": {**ENDED, "nodes": rows}}
    assert push(agent, directory, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["failed"] == []
    agent.answers = {
        "push": {**ENDED, "nodes": [], "failure": "another node had a newer set", "hint": "again"}
    }
    assert push(agent, directory) == 1
    assert "another node had a newer set (again)" in capsys.readouterr().out


def test_an_invalid_set_does_not_come_to_the_agent(
    agent: Agent, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "gateway.yaml").unlink()
    assert push(agent, directory) == 1
    assert "there is no EgressGateway 'partner'" in capsys.readouterr().out
    assert agent.asked == []


def test_an_agent_that_takes_no_sets_says_why(
    agent: Agent, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.answers = {"push": {"error": "this node takes no sets", "hint": "store.push"}}
    assert push(agent, directory) == 1
    assert capsys.readouterr().err == "egressctl: this node takes no sets\n  store.push\n"


def test_a_request_that_the_agent_would_refuse_is_not_sent(
    agent: Agent, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "policy.yml").write_text(POLICY + "# x\n" * (1 << 20))
    assert push(agent, directory) == 1
    assert "more than 4 MiB" in capsys.readouterr().err
    assert agent.asked == []


def test_a_terminal_sees_how_far_it_is(agent: Agent, directory: Path) -> None:
    agent.answers = {"push": BEGUN, "pushed": ENDED}
    leader, follower = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "gateway_agent.ctl",
        "--config",
        str(agent.config),
        "push",
        str(directory),
    ]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=follower, timeout=60, check=False)
    os.close(follower)
    assert done.returncode == 1
    assert b"2 of 2 nodes" in os.read(leader, 1 << 16)
    os.close(leader)
