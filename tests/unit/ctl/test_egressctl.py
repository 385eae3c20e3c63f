"""The command, against an agent that answers what a test tells it to."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni.version import VERSION
from gateway_agent.ctl.__main__ import main

STATUS: dict[str, Any] = {
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


def terminal_output(agent: Agent, *arguments: str, columns: int = 80, **environment: str) -> str:
    """Return what the command writes to a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    command = [
        sys.executable,
        "-m",
        "gateway_agent.ctl",
        "--config",
        str(agent.config),
        *(arguments or ["status"]),
    ]
    kept = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    settings = {**kept, "TERM": "xterm-256color", **environment}
    done = subprocess.run(command, stdout=slave, check=False, env=settings, timeout=30)
    assert done.returncode in (0, 3), "status ends by its verdict"
    os.close(slave)
    parts = []
    try:
        while part := os.read(master, 1 << 16):
            parts.append(part)
    except OSError:
        pass  # Linux says EIO at the end of what a closed terminal has written.
    os.close(master)
    return b"".join(parts).decode()


def plain_lines(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def test_colour_only_on_a_terminal_and_not_with_no_color(agent: Agent) -> None:
    assert "\x1b[32m" in terminal_output(agent)
    assert "\x1b[32m" not in terminal_output(agent, NO_COLOR="1")


ADDRESSES = ("172.16.0.50", "2001:db8:1234:5678:9abc:def0:1234:5678")


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("command", ["status", "events", "pods"])
def test_no_address_is_cut_at_80_columns(agent: Agent, command: str, address: str) -> None:
    egress = {**STATUS["egressIPs"][0], "gateway": "partner", "ip": address, "master": "worker-node-12"}
    agent.answers["status"] = {**STATUS, "egressIPs": [egress]}
    agent.answers["events"] = {
        "events": [{**EVENTS[0], "ip": address, "reason": "the master was silent for long"}]
    }
    agent.answers["pods"] = {"pods": [{**PODS[0], "ip": address, "name": "a-deployment-5d4f8c7b9-x2x4z"}]}
    lines = plain_lines(terminal_output(agent, command, NO_COLOR="1"))
    assert any(address in line.split() for line in lines)
    # A long address beside a long name is more than 80 columns without any other: it is not cut even then.
    assert all(len(line.rstrip()) <= 80 for line in lines) or (command, address) == ("pods", ADDRESSES[1]), (
        lines
    )
    if len(address) > 20 and command == "status":
        assert any("-o wide adds" in line for line in lines)
        wide = terminal_output(agent, command, "-o", "wide", NO_COLOR="1")
        assert "-o wide adds" not in wide
        assert len(wide.splitlines()) <= len(lines)


def test_status_shows_the_first_problems_and_all_of_them_if_asked(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = [{"source": f"{n}.yaml", "path": "", "message": "is wrong", "hint": ""} for n in range(50)]
    more = {"voters": ["g1", "g2"], "voterSet": 3, "counters": {"bad_mac": 7}}
    agent.answers["status"] = {**STATUS, "problems": problems, **more}
    run(agent, "status")
    out = capsys.readouterr().out
    assert (out.count("is wrong"), "and 30 more: egressctl status -o wide" in out) == (20, True)
    run(agent, "-o", "wide", "status")
    out = capsys.readouterr().out
    assert (out.count("is wrong"), "voters: g1, g2 (set 3)" in out, "bad_mac" in out) == (50, True, True)


FINDINGS = [
    {"fault": "no_master", "text": f"no master: partner {ADDRESSES[1]}: g1 is down; to do: start it"},
    {"fault": "member", "text": "egress node down: g1; to do: start it"},
]


def judged(*findings: dict[str, str]) -> dict[str, Any]:
    text = findings[0]["text"] if findings else "OK"
    more = {"voters": [], "voterSet": 0, "counters": {}}
    return {**STATUS, **more, "verdict": {"ok": not findings, "text": text, "findings": list(findings)}}


@pytest.mark.parametrize(("output", "code"), [("text", 3), ("wide", 3), ("json", 0)])
def test_the_verdict_decides_how_status_ends(agent: Agent, output: str, code: int) -> None:
    agent.answers["status"] = judged()
    assert run(agent, "-o", output, "status") == 0
    agent.answers["status"] = judged(*FINDINGS)
    assert run(agent, "-o", output, "status") == code


def test_the_verdict_is_the_first_line(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answers["status"] = judged()
    run(agent, "status")
    assert capsys.readouterr().out.splitlines()[0] == "OK"
    agent.answers["status"] = judged(*FINDINGS)
    run(agent, "status")
    assert capsys.readouterr().out.splitlines()[:2] == [
        FINDINGS[0]["text"],
        "and 1 more: egressctl status -o wide",
    ]
    run(agent, "-o", "wide", "status")
    assert capsys.readouterr().out.splitlines()[:2] == [finding["text"] for finding in FINDINGS]


GROUP: dict[str, Any] = {
    "ok": True,
    "text": "OK: all nodes, 2 in number",
    "nodes": [
        {"node": name, "address": f"10.0.0.{number}", "ok": True, "verdict": "OK", "roles": ["node", "gateway"],
         "held": [f"172.16.0.{n}" for n in range(6)] if name == "g1" else [], "heldCount": 300 * (name == "g1"),
         "version": "1.2.3", "reason": "", "hint": "", "findings": 0}
        for number, name in enumerate(("g1", "g2"), 7)
    ],
}  # fmt: skip


@pytest.mark.parametrize("output", ["text", "wide", "json"])
def test_the_worst_node_decides_how_the_status_of_all_ends(
    agent: Agent, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.answers["group"] = GROUP
    assert run(agent, "-o", output, "status", "--all") == 0
    agent.answers["group"] = {**GROUP, "ok": False}
    assert run(agent, "-o", output, "status", "--all") == 3
    out = capsys.readouterr().out
    assert "g1" in out
    assert "g2" in out


def test_the_table_of_all_nodes(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answers["group"] = GROUP
    run(agent, "status", "--all")
    first, _, _, held, _ = capsys.readouterr().out.splitlines()
    assert first == "OK: all nodes, 2 in number"
    assert "172.16.0.3 and 296 more" in held
    run(agent, "-o", "wide", "status", "--all")
    assert "172.16.0.5 and 294 more" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [20, 45, 80])
def test_no_address_of_the_verdict_is_cut(agent: Agent, columns: int) -> None:
    agent.answers["status"] = judged(*FINDINGS)
    lines = plain_lines(terminal_output(agent, "status", columns=columns, NO_COLOR="1"))
    assert any(f"{ADDRESSES[1]}:" in line.split() for line in lines)


def test_explain_takes_its_destination_in_two_forms(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    run(agent, "explain", "api", "--to", "203.0.113.10")
    assert agent.asked == [{"call": "explain", "pod": "api", "destination": "203.0.113.10"}]
    assert run(agent, "explain", "api", "203.0.113.10", "--to", "203.0.113.10") == 2


def test_events_name_the_address(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answers["events"] = {"events": [{**EVENTS[0], "ip": "172.16.0.50"}]}
    run(agent, "events")
    assert "172.16.0.50" in capsys.readouterr().out.split()


def test_a_wrong_key_in_the_configuration_is_a_warning(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.config.write_text(agent.config.read_text() + "lease: {durration: 1s}\nfoo: 1\n")
    assert run(agent, "-o", "json", "status") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == STATUS
    assert captured.err.startswith("egressctl: warning: ")
    assert "durration" in captured.err
    agent.config.write_text("runDir: relative\nstore: {kind: files}\n")
    assert run(agent, "status") == 2


@pytest.mark.parametrize(
    "module", ["gateway_agent", "gateway_agent.ctl", "gateway_agent.cni_install.installer"]
)
def test_each_program_names_its_version(module: str) -> None:
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.endswith(f" {VERSION}\n")


def test_doctor_without_rights_says_what_it_could_not_see(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    (tmp_path / "run").mkdir(mode=0o700)
    config.write_text(
        f"runDir: {tmp_path}/run/in\nstore: {{kind: files}}\ncluster: {{keyFile: {tmp_path}/run/key}}\n"
    )
    code = (
        "import os, sys; from gateway_agent.ctl.__main__ import main; from gateway_agent.ctl import doctor;"
        "from gateway_agent.ctl.output import render;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        f"sys.exit(main(['--config', {str(config)!r}, '-o', 'json', 'doctor']))"
    )
    if os.geteuid():
        pytest.skip("needs root, to give it up")
    # All that pytest has made above it, also if several processes run the tests.
    for path in (tmp_path, *(parent for parent in tmp_path.parents if "pytest" in str(parent))):
        path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    for what in ("cluster key", "agent", "nftables"):
        assert found[what]["found"].startswith("not looked at: "), found
        assert (found[what]["wrong"], found[what]["hint"]) == (False, "run it as root")
    assert found["kernel"]["found"]


def test_refusal_is_shown_with_its_hint(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answers["explain"] = {"error": "no pod 'x' is known", "hint": "egressctl pods"}
    assert run(agent, "explain", "x") == 1
    assert capsys.readouterr().err == "egressctl: no pod 'x' is known\n  egressctl pods\n"


@pytest.mark.parametrize("raw", [b"", b'{"node": ', b"\xff"])
def test_answer_that_breaks_off(agent: Agent, capsys: pytest.CaptureFixture[str], raw: bytes) -> None:
    agent.raw = raw
    assert run(agent, "status") == 1
    assert "ended its answer early" in capsys.readouterr().err


@pytest.mark.parametrize("stale", [False, True])
def test_no_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str], stale: bool) -> None:
    config, path = tmp_path / "agent.yaml", tmp_path / "agent.sock"
    config.write_text(f"runDir: {tmp_path}\nstore: {{kind: files}}\n")
    if stale:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    assert main(["--config", str(config), "status"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(
        f"egressctl: no agent answers at {path}\n  is egress-gateway-agent running?"
    )
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments",
    [[], ["explain"], ["status", "-o", "yaml"], ["handover", "partner"], ["status", "more"], ["validate"]],
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


@pytest.mark.parametrize(("output", "unneeded"), [("json", "rich"), ("text", "gateway_agent.ctl.doctor")])
def test_an_answer_is_shown_with_little(agent: Agent, output: str, unneeded: str) -> None:
    """A handover is done as soon as the agent answers: what is imported then takes the processor from its packets."""
    code = (
        "import sys; from gateway_agent.ctl.__main__ import main; "
        f"main(['--config', {str(agent.config)!r}, '-o', {output!r}, 'events']); "
        f"sys.exit({unneeded!r} in sys.modules or 'cni.kernel.rtnl' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, stdout=subprocess.DEVNULL)
