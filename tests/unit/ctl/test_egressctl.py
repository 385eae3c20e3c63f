"""The command, against an agent that answers what a test tells it to."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_agent.ctl.__main__ import main

STATUS = {
    "node": "g1",
    "roles": ["node", "gateway"],
    "isolated": False,
    "egressIPs": [
        {
            "gateway": "partner-" + "x" * 150, "ip": "172.16.0.7", "mode": "VirtualIPAddress", "master": "g1",
            "epoch": 3, "since": "2026-11-21T21:00:00Z", "state": "master", "reason": "", "pods": 2, "survivor": True,
            "lastChange": {"before": "g2", "after": "g1", "silentMs": 212},
        }
    ],
    "members": [{"node": "g2", "alive": True, "ready": False, "reason": "eth1 is down", "lastHeardMs": 40}],
    "problems": [{"source": "a.yaml", "path": "spec.x", "message": "unknown field", "hint": "did you mean 'y'?"}],
}  # fmt: skip
PODS = [
    {"namespace": "prod", "name": "api", "interface": "veth1", "policies": ["a", "b"], "gateway": "partner",
     "ip": "172.16.0.7", "via": "g1", "verdict": "gateway"},
    {"namespace": "prod", "name": "\x1b[31mred", "interface": "", "policies": [], "gateway": "", "ip": "", "via": "",
     "verdict": "direct"},
]  # fmt: skip
EXPLAINED = {
    "pod": "prod/api", "destination": "203.0.113.10", "verdict": "gateway", "via": "g1", "ip": "172.16.0.7",
    "steps": [{"step": "pod", "result": "attached", "reason": "by [bold]veth1[/bold]"}],
}  # fmt: skip
EVENTS = [
    {"at": "2026-11-21T21:00:00Z", "gateway": "partner", "ip": "", "before": "", "after": "g1", "epoch": 1,
     "silentMs": 0, "reason": "first master"},
]  # fmt: skip
ANSWERS: dict[str, Any] = {
    "status": STATUS, "pods": {"pods": PODS}, "explain": EXPLAINED, "events": {"events": EVENTS},
}  # fmt: skip


class Agent:
    """Answers on a real socket as the contract says; ``asked`` are the requests so far."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "agent.yaml"
        self.config.write_text(f"runDir: {directory}\nstore: {{kind: files}}\n")
        self.answers = dict(ANSWERS)
        self.raw: bytes | None = None
        self.asked: list[dict[str, Any]] = []
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(directory / "agent.sock"))
        self.server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as reader:
                kind, text = reader.read().split(b"\0", 1)
                assert kind == b"ctl1"
                self.asked.append(json.loads(text))
                answer = self.answers[self.asked[-1]["call"]]
                connection.sendall(self.raw if self.raw is not None else json.dumps(answer).encode())


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    agent.server.shutdown(socket.SHUT_RDWR)
    agent.server.close()


def run(agent: Agent, *arguments: str) -> int:
    return main(["--config", str(agent.config), *arguments])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status"], STATUS),
        (["pods"], PODS),
        (["explain", "prod/api", "203.0.113.10"], EXPLAINED),
        (["events"], EVENTS),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_json(
    agent: Agent, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: Any, behind: bool
) -> None:
    assert run(agent, *([*arguments, "-o", "json"] if behind else ["-o", "json", *arguments])) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_what_is_asked(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    run(agent, "explain", "prod/api", "203.0.113.10")
    run(agent, "explain", "api")
    run(agent, "status")
    assert agent.asked == [
        {"call": "explain", "pod": "prod/api", "destination": "203.0.113.10"},
        {"call": "explain", "pod": "api", "destination": ""},
        {"call": "status"},
    ]


def test_status_as_text_wraps_nothing_in_a_pipe(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(agent, "status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "node g1, roles: node, gateway"
    assert lines[3].split() == [
        "partner-" + "x" * 150, "172.16.0.7", "g1", "3", "2026-11-21T21:00:00Z", "master", "2", "g2", "->", "g1,",
        "silent", "for", "212", "ms", "held", "without", "a", "majority",
    ]  # fmt: skip
    assert lines[6].split() == ["g2", "yes", "no", "40", "ms", "ago", "eth1", "is", "down"]
    assert lines[-1] == "  a.yaml: spec.x: unknown field (did you mean 'y'?)"
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines)


def test_pods_explain_and_events_as_text(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    run(agent, "pods")
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["prod", "api", "veth1", "a,", "b", "partner", "gateway", "172.16.0.7", "g1"]
    assert out[2].split() == ["prod", "\\x1b[31mred", "-", "-", "-", "direct", "-", "-"]
    run(agent, "explain", "api", "203.0.113.10")
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "prod/api to 203.0.113.10"
    assert "by [bold]veth1[/bold]" in out[3]
    assert out[-1] == "verdict: gateway, leaves by g1 as 172.16.0.7"
    agent.answers["explain"] = {**EXPLAINED, "destination": "", "ways": [{}, {}]}
    run(agent, "explain", "api")
    assert capsys.readouterr().out.endswith("verdict: depends on the destination\n")
    run(agent, "events")
    assert "none -> g1" in capsys.readouterr().out


def terminal_output(agent: Agent, **environment: str) -> str:
    """What the command writes to a terminal."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "gateway_agent.ctl", "--config", str(agent.config), "status"]
    kept = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    subprocess.run(command, stdout=slave, check=True, env={**kept, "TERM": "xterm-256color", **environment}, timeout=30)
    os.close(slave)
    parts = []
    try:
        while part := os.read(master, 1 << 16):
            parts.append(part)
    except OSError:
        pass  # Linux says EIO at the end of what a closed terminal has written.
    os.close(master)
    return b"".join(parts).decode()


def test_colour_only_on_a_terminal_and_not_against_the_users_wish(agent: Agent) -> None:
    assert "\x1b[32m" in terminal_output(agent)
    assert "\x1b[32m" not in terminal_output(agent, NO_COLOR="1")


def test_refusal_is_shown_with_its_hint(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answers["explain"] = {"error": "no pod 'x' is known", "hint": "egressctl pods"}
    assert run(agent, "explain", "x") == 1
    assert capsys.readouterr().err == "egressctl: no pod 'x' is known\n  egressctl pods\n"


@pytest.mark.parametrize("raw", [b"", b'{"node": ', b"\xff"])
def test_answer_that_breaks_off(agent: Agent, capsys: pytest.CaptureFixture[str], raw: bytes) -> None:
    agent.raw = raw
    assert run(agent, "status") == 1
    assert "broke its answer off" in capsys.readouterr().err


@pytest.mark.parametrize("stale", [False, True])
def test_no_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str], stale: bool) -> None:
    config, path = tmp_path / "agent.yaml", tmp_path / "agent.sock"
    config.write_text(f"runDir: {tmp_path}\nstore: {{kind: files}}\n")
    if stale:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    assert main(["--config", str(config), "status"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"egressctl: no agent answers at {path}\n  is egress-gateway-agent running?")
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments", [[], ["explain"], ["status", "-o", "yaml"], ["handover", "partner"], ["status", "more"], ["validate"]]
)
def test_wrong_calls(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith("usage: egressctl")


def test_wrong_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "none.yaml"), "status"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_reader_that_leaves_early_is_no_failure(agent: Agent) -> None:
    agent.answers["pods"] = {"pods": PODS * 5000}
    command = [sys.executable, "-m", "gateway_agent.ctl", "--config", str(agent.config), "pods", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_json_needs_no_tables(agent: Agent) -> None:
    code = (
        "import sys; from gateway_agent.ctl.__main__ import main; "
        f"main(['--config', {str(agent.config)!r}, '-o', 'json', 'status']); sys.exit('rich' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, stdout=subprocess.DEVNULL)
