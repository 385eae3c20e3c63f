"""Starts, restarts and ends of a process that stands in for conntrackd, and leaves what happened in a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway_agent.adapters.daemons.conntrackd import ConnectionSync
from gateway_agent.policy.egress_node.sync_groups import files
from tests.unit.policy.egress_node.test_sync_groups import RUNTIME, STATISTICS

SUBSTITUTE = """#!/bin/sh
case "$3$4" in
-sruntime) printf '%s' "$RUNTIME" ;;
-s) kill -0 "$(cat "$2".pid)" && [ ! -e "$2".deaf ] || exit 1; printf '%s' "$STATISTICS" ;;
-*) printf '%s\\n' "$3$4" >> "$2".log ;;
'')
  printf 'start %s\\n' "$(cat "$2")" >> "$2".log
  grep -q fails "$2" && { echo '[now] (pid=1) [ERROR] it fails'; exit 1; }
  echo $$ > "$2".pid
  exec sleep 1000 ;;
esac
"""


class Desk:
    """A :class:`ConnectionSync` whose conntrackd is the stand-in."""

    def __init__(self, directory: Path, refresh: float = 60.0) -> None:
        program = directory / "bin" / "conntrackd"
        program.parent.mkdir()
        program.write_text(SUBSTITUTE)
        program.chmod(0o700)
        message = (f"STATISTICS={STATISTICS}", f"RUNTIME={RUNTIME}")
        path = f"PATH={program.parent}:{os.environ['PATH']}"
        self.paths = files(str(directory), "one")
        self.sync = ConnectionSync(directory, prefix=("env", path, *message), refresh=refresh)
        self.log = Path(f"{self.paths.configuration}.log")

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def run_scenario(desk: Desk, scenario: Callable[[Desk], Awaitable[None]]) -> None:
    async def whole() -> None:
        try:
            await scenario(desk)
        finally:
            await desk.sync.stop()

    asyncio.run(whole())


async def until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


def test_a_standby_forgets_asks_and_is_in_sync_in_time(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.sync.set({"one": "text\n"})
        assert not desk.sync.state()["one"].in_sync
        await until(lambda: len(desk.lines()) >= 3, "it was told its part")
        assert desk.lines()[:3] == ["start text", "-finternal", "-n"]
        assert not desk.sync.state()["one"].in_sync
        await until(lambda: desk.sync.state()["one"].in_sync, "in sync")
        assert desk.sync.state()["one"].counters.received == 75
        assert Path(desk.paths.configuration).stat().st_mode & 0o777 == 0o600

    desk = Desk(tmp_path)
    run_scenario(desk, scenario)
    assert not desk.sync.state()
    assert not Path(desk.paths.configuration).exists()


def test_a_master_is_in_sync_at_once_and_sends_its_table_again(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.sync.serve(True)
        desk.sync.set({"one": "text\n"})
        await until(lambda: desk.sync.state()["one"].in_sync, "in sync")
        assert desk.lines() == ["start text"]
        await until(lambda: desk.lines().count("-B") >= 3, "the table was sent again")
        assert desk.lines()[1:4] == ["-R", "-B", "-B"]
        desk.sync.serve(False)
        await until(lambda: desk.lines()[-1:] == ["-n"], "it is a standby")
        assert desk.sync.state()["one"].in_sync

    run_scenario(Desk(tmp_path, refresh=0.1), scenario)


def test_another_text_starts_it_anew_and_the_same_text_does_not(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.sync.set({"one": "a\n"})
        await until(lambda: "-n" in desk.lines(), "it runs")
        desk.sync.set({"one": "a\n"})
        desk.sync.set({"one": "b\n"})
        desk.sync.set({"one": "c\n"})
        await until(lambda: desk.lines().count("-n") == 2, "it runs again")
        assert [line for line in desk.lines() if line.startswith("start")] == ["start a", "start c"]

    run_scenario(Desk(tmp_path), scenario)


def test_what_fails_is_started_again_and_says_why(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.sync.set({"one": "fails\n"})
        await until(lambda: desk.sync.state()["one"].restarts >= 2, "started again")
        state = desk.sync.state()["one"]
        assert (state.error, state.in_sync) == ("it fails", False)

    run_scenario(Desk(tmp_path), scenario)


def test_what_does_not_answer_is_started_again(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.sync.set({"one": "a\n"})
        await until(lambda: desk.sync.state()["one"].in_sync, "in sync")
        deaf = Path(f"{desk.paths.configuration}.deaf")
        deaf.touch()
        desk.sync.serve(True)
        await until(lambda: desk.sync.state()["one"].restarts == 1, "ended and started again")
        assert desk.sync.state()["one"].error == "conntrackd does not answer"
        assert not desk.sync.state()["one"].in_sync
        deaf.unlink()
        await until(lambda: desk.sync.state()["one"].in_sync, "in sync again")

    run_scenario(Desk(tmp_path), scenario)


def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    async def scenario() -> None:
        sync = ConnectionSync(tmp_path, prefix=("env", "PATH=/nowhere"))
        sync.set({"one": "a\n"})
        await until(lambda: "conntrackd" in sync.state()["one"].error, "it says so")
        await sync.stop()

    asyncio.run(scenario())


def test_a_refused_path_changes_nothing(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.sync.set({"one": "a\n"})
        with pytest.raises(ValueError, match="accepts no path"):
            desk.sync.set({"a b": "x\n"})
        assert list(desk.sync.state()) == ["one"]

    run_scenario(Desk(tmp_path), scenario)
