"""``drain``, ``undrain``, ``handover`` and ``doctor``: what operators do, and how it is shown."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_agent.ctl.__main__ import main
from gateway_agent.ctl.doctor import Finding
from gateway_agent.ctl.output import render

from ..test_egressctl import Agent, run

MOVED = {"gateway": "partner", "ip": "172.16.0.50", "master": "g2", "epoch": 4, "silentMs": 0}
BASIC = {"gateway": "old", "ip": "", "master": "g1", "epoch": 2, "silentMs": 0}
DRAINED = {"node": "g1", "drained": True, "moved": [MOVED], "left": []}
UNDRAINED = {"node": "g1", "drained": False}
HANDED_OVER = {**MOVED, "before": "g1"}
FINDINGS = (
    Finding("kernel", "6.18.0"),
    Finding("agent", "/run/agent.sock", wrong=True, hint="start egress-gateway-agent"),
    Finding("ours", "virtual address 172.16.0.50 on eth1", judged=False),
)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    made.answers |= {"drain": DRAINED, "undrain": UNDRAINED, "handover": HANDED_OVER}
    yield made
    made.server.close()


@pytest.mark.parametrize(
    ("arguments", "asked", "expected"),
    [
        (["drain"], {"call": "drain"}, DRAINED),
        (["undrain"], {"call": "undrain"}, UNDRAINED),
        (
            ["handover", "partner", "--ip", "172.16.0.50", "--to", "g2"],
            {"call": "handover", "gateway": "partner", "ip": "172.16.0.50", "to": "g2"},
            HANDED_OVER,
        ),
        (
            ["handover", "partner", "--to", "g2"],
            {"call": "handover", "gateway": "partner", "ip": "", "to": "g2"},
            HANDED_OVER,
        ),
    ],
)
def test_what_is_asked_and_answered(
    agent: Agent,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    asked: dict[str, str],
    expected: Any,
) -> None:
    assert run(agent, "-o", "json", *arguments) == 0
    assert agent.asked == [asked]
    assert json.loads(capsys.readouterr().out) == expected


TESTED = {
    "node": "w1", "gateway": "partner", "ip": "172.16.0.50", "master": "g1", "result": "wrong",
    "destination": "203.0.113.10", "port": 80, "answer": "none", "answeredBy": "", "milliseconds": None,
    "leftAs": "", "reason": "no answer",
}  # fmt: skip


@pytest.mark.parametrize(
    ("to", "address", "port"),
    [
        ("203.0.113.10:80", "203.0.113.10", "80"), ("203.0.113.10", "203.0.113.10", ""),
        ("[2001:db8::10]:80", "2001:db8::10", "80"), ("2001:db8::10", "2001:db8::10", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("passed", [True, False])
def test_what_test_asks_and_how_it_ends(
    agent: Agent, capsys: pytest.CaptureFixture[str], to: str, address: str, port: str, passed: bool
) -> None:
    agent.answers["test"] = {"passed": passed, "tests": [TESTED]}
    assert run(agent, "test", "partner", "--to", to) == (0 if passed else 1)
    assert agent.asked == [{"call": "test", "gateway": "partner", "to": address, "port": port}]
    [heading, row] = capsys.readouterr().out.splitlines()
    assert heading.split()[:5] == ["NODE", "GATEWAY", "IP", "MASTER", "RESULT"]
    assert row.split() == [
        "w1", "partner", "172.16.0.50", "g1", "wrong", "203.0.113.10", "-", "none", "-", "no", "answer"
    ]  # fmt: skip


def test_drain_as_text(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(agent, "drain") == 0
    assert capsys.readouterr().out.splitlines() == [
        "partner 172.16.0.50 -> g2",
        "node g1 is drained: it takes nothing until egressctl undrain",
    ]


def test_drain_of_a_node_that_is_master_of_nothing(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answers["drain"] = {**DRAINED, "moved": []}
    assert run(agent, "drain") == 0
    assert capsys.readouterr().out == "node g1 is drained: it takes nothing until egressctl undrain\n"


@pytest.mark.parametrize("output", ["text", "json"])
def test_what_no_node_has_taken_over_is_a_failure(
    agent: Agent, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    agent.answers["drain"] = {**DRAINED, "moved": [{**MOVED, "master": ""}], "left": [BASIC]}
    assert run(agent, "-o", output, "drain") == 1
    if output == "text":
        assert capsys.readouterr().out.splitlines()[:2] == [
            "partner 172.16.0.50 -> none",
            "old is still here: no other node has taken it over",
        ]


def test_undrain_as_text(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(agent, "undrain") == 0
    assert capsys.readouterr().out == "node g1 can be master again\n"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (HANDED_OVER, "partner 172.16.0.50: g1 -> g2, epoch 4"),
        ({**HANDED_OVER, "silentMs": 212}, "partner 172.16.0.50: g1 -> g2, epoch 4, silent for 212 ms"),
        ({**BASIC, "before": ""}, "old: none -> g1, epoch 2"),
    ],
)
def test_handover_as_text(
    agent: Agent, capsys: pytest.CaptureFixture[str], answer: dict[str, Any], line: str
) -> None:
    agent.answers["handover"] = answer
    assert run(agent, "handover", "partner", "--to", "g2") == 0
    assert capsys.readouterr().out == f"{line}\n"


@pytest.mark.parametrize("call", [["drain"], ["undrain"], ["handover", "partner", "--to", "g9"]])
def test_refusals_are_shown_with_their_hint(
    agent: Agent, capsys: pytest.CaptureFixture[str], call: list[str]
) -> None:
    agent.answers[call[0]] = {"error": "it cannot be done", "hint": "one of g1, g2"}
    assert run(agent, *call) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "egressctl: it cannot be done\n  one of g1, g2\n")


def test_doctor_as_text() -> None:
    out = io.StringIO()
    render.doctor(FINDINGS, render.Page(out))
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert rows == [
        ["WHAT", "FOUND", "WHAT", "TO", "DO"],
        ["kernel", "ok", "6.18.0"],
        ["agent", "wrong", "/run/agent.sock", "start", "egress-gateway-agent"],
        ["ours", "virtual", "address", "172.16.0.50", "on", "eth1"],
    ]


def test_doctor_steers_no_terminal() -> None:
    out = io.StringIO()
    render.doctor((Finding("ours", "interface \x1b[31mred has group 1", judged=False),), render.Page(out))
    assert "\x1b" not in out.getvalue()
    assert "\\x1b[31mred" in out.getvalue()


def test_doctor_needs_no_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It looks at the kernel of whoever runs it; of what it finds only the files are this test's own."""
    config, key = tmp_path / "agent.yaml", tmp_path / "cluster.key"
    key.touch(0o644)
    key.chmod(0o644)
    config.write_text(f"runDir: {tmp_path}\nstore: {{kind: files}}\ncluster: {{keyFile: {key}}}\n")
    assert main(["--config", str(config), "-o", "json", "doctor"]) == 1
    found = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["agent"]["wrong"]
    assert found["agent"]["hint"] == "start egress-gateway-agent"
    assert (found["cluster key"]["found"], found["cluster key"]["hint"]) == (f"{key}, mode 0644", "chmod 600")
    key.chmod(0o600)
    main(["--config", str(config), "-o", "json", "doctor"])
    found = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert not found["cluster key"]["wrong"]
