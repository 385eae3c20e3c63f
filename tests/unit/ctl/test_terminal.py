"""Completion by a shell, and the status that goes on."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from gateway_agent.ctl.__main__ import _parser
from gateway_agent.ctl.terminal import SHELLS, completion

from ...lab.waiting import until
from .test_egressctl import STATUS, Agent

COMMAND = (sys.executable, "-m", "gateway_agent.ctl")
Output = TypeVar("Output", str, bytes)
INTERRUPTED = ("env", "--default-signal=INT")
"""A process that a shell starts in the background ignores Ctrl-C, and so do those that it starts."""
ASK = """
source /dev/stdin
COMP_WORDS=(egressctl "$@"); COMP_CWORD=$#
_egressctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.server.close()


def completed(*arguments: str, directory: Path | None = None) -> set[str]:
    """Return what bash proposes for the last word."""
    script = completion(_parser(), "bash")
    done = subprocess.run(
        ("bash", "-c", ASK, "bash", *arguments), input=script, cwd=directory, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    assert completed("st") == {"status"}
    assert {"status", "whois", "completion", "watch", "--version"} <= completed("")
    assert completed("status", "--a") == {"--all"}
    assert completed("-o", "json", "test", "--a") == {"--all"}
    assert completed("status", "-o", "w") == {"wide"}
    assert completed("completion", "z") == {"zsh"}
    (tmp_path / "all.yaml").touch()
    assert completed("validate", "al", directory=tmp_path) == {"all.yaml"}
    assert completed("whois", "al", directory=tmp_path) == set()


@pytest.mark.parametrize("shell", SHELLS)
def test_each_command_and_long_option_is_in_each_script(shell: str) -> None:
    script, parser = completion(_parser(), shell), _parser()
    [commands] = [action.choices for action in parser._actions if hasattr(action, "add_parser")]
    assert commands
    for name, command in dict(commands).items():
        assert name in script
        for action in command._actions:
            for option in action.option_strings:
                shown = f"-l {option[2:]}" if shell == "fish" and option.startswith("--") else option
                assert shown in script or shell == "fish", f"{name} {option}"


@contextmanager
def ended(process: subprocess.Popen[Output]) -> Iterator[subprocess.Popen[Output]]:
    """Kill a process at the end if it runs on: a test that fails must not wait for it."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_off_a_terminal_each_status_is_shown_once(agent: Agent) -> None:
    command = (
        *INTERRUPTED, *COMMAND, "--config", str(agent.config), "-o", "json", "watch", "--interval", "0.1",
    )  # fmt: skip
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout is not None
        asked(agent, 3)
        agent.answers["status"] = {**STATUS, "problems": []}
        asked(agent, len(agent.asked) + 3)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    decoder, rest, found = json.JSONDecoder(), shown.strip(), []
    while rest:
        answer, end = decoder.raw_decode(rest)
        found.append(len(answer["problems"]))
        rest = rest[end:].strip()
    assert found == [1, 0]


def asked(agent: Agent, number: int) -> None:
    until(lambda: len(agent.asked) >= number, "the agent was asked", 30)


def test_on_a_terminal_the_screen_is_cleared_and_an_agent_that_is_away_is_said(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"runDir: {tmp_path}\nstore: {{kind: files}}\n")
    main, side = pty.openpty()
    command = (*INTERRUPTED, *COMMAND, "--config", str(config), "watch", "--interval", "0.1")
    with ended(subprocess.Popen(command, stdout=side, stderr=side)) as process:
        os.close(side)
        shown = b""
        while shown.count(b"no agent answers") < 2:
            shown += os.read(main, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    os.close(main)
    assert shown.startswith(b"\x1b[H\x1b[2J")


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "x", "1e9"])
def test_an_interval_that_is_none_is_refused(interval: str) -> None:
    done = subprocess.run(
        (*COMMAND, "watch", f"--interval={interval}"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
