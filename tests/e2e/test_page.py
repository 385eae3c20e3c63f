"""The page of an agent in Debian's Chromium: what changes appears by itself, for every reader and on every screen."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from typing import Any

import msgspec
import pytest

from gateway_agent.adapters.servers.metrics_http import MetricsServer
from gateway_agent.lease.ipc import Change
from gateway_agent.manifests.model import Problem
from gateway_agent.show import group
from gateway_agent.show.metrics.families import Observation

from ..lab.browser import HOST, TAB, Browser, browser
from ..lab.free_port import free_port
from ..lab.waiting import until
from ..unit.adapters.servers.test_metrics_http import listens
from ..unit.show.metrics.test_families import AT_S, FIRST, keeper, view

AXE = resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")


class Agent:
    """An agent whose state the test sets, and whose page is served."""

    def __init__(self, port: int) -> None:
        self.address = f"http://{HOST}:{port}/"
        self.seen = Observation("g1", view())
        self.group: dict[str, Any] | None = None

    def change(self, **fields: Any) -> None:
        assert self.seen.view is not None
        self.seen = replace(self.seen, view=replace(self.seen.view, **fields))


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[Agent]:
    port = port or free_port(HOST)
    agent, loop = Agent(port), asyncio.new_event_loop()
    server = MetricsServer((HOST, port), lambda: agent.seen, group=lambda: agent.group)
    task = loop.create_task(server.run())

    def serve() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    until(lambda: listens(port), "the agent listens")
    yield agent
    loop.call_soon_threadsafe(task.cancel)
    thread.join(5)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest.fixture
def agent() -> Iterator[Agent]:
    with serving() as made:
        yield made


def text(window: Browser, identity: str) -> str:
    return str(window.run("return document.getElementById(arguments[0]).innerText", identity))


def test_a_failover_appears_within_a_second_and_without_a_reload(window: Browser, agent: Agent) -> None:
    window.visit(agent.address)
    window.run("window.before = 1; document.getElementById('egress').focus()")
    assert "g2 → g1" not in text(window, "changes")
    change = Change(FIRST, "g2", "g1", 9, AT_S, 212, "g2 silent")
    began = time.monotonic()
    agent.change(lease_daemon=keeper((change,)))
    until(lambda: "g2 → g1" in text(window, "changes") and "212 ms" in text(window, "egress"), "it appears")
    assert time.monotonic() - began < 1.0
    assert window.run("return [window.before, document.activeElement.id]") == [1, "egress"]


def test_all_nodes_are_on_the_page(window: Browser, agent: Agent) -> None:
    window.visit(agent.address)
    rows = [group.row("w7", "10.0.0.27", "Connection refused")]
    agent.group = group.answer(rows)
    until(lambda: "w7" in text(window, "nodes") and "no answer" in text(window, "nodes"), "the node appears")


def test_an_agent_that_is_gone_is_said_and_comes_back(window: Browser) -> None:
    port = free_port(HOST)
    with serving(port) as agent:
        window.visit(agent.address)
        assert text(window, "lost") == ""
    until(lambda: "No news" in text(window, "lost"), "the page says that it is old")
    with serving(port) as agent:
        agent.group = group.answer([group.row("w7", "10.0.0.27", "Connection refused")])
        until(lambda: not text(window, "lost") and "w7" in text(window, "nodes"), "it shows what is new")


def test_text_of_others_is_only_text(window: Browser, agent: Agent) -> None:
    window.visit(agent.address)
    nasty = "<img src=x onerror='window.evil = 1'><script>window.evil = 1</script>"
    agent.change(problems=(Problem(nasty, "", nasty, nasty),))
    until(lambda: nasty in text(window, "problems"), "the text appears")
    assert window.run("return window.evil") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    window: Browser, agent: Agent, scheme: str, width: int
) -> None:
    changes = tuple(
        Change(FIRST, before, after, number, AT_S + number * 600, silent, "")
        for number, (before, after, silent) in enumerate([("", "g1", 0), ("g1", "g2", 212), ("g2", "g1", 0)])
    )
    agent.change(problems=(Problem("a.yaml", "spec", "is bad", "mend it"),), lease_daemon=keeper(changes))
    agent.group = group.answer([group.row("w7", "10.0.0.27", "Connection refused")])
    window.emulate("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    window.emulate(
        "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
    )
    window.visit(agent.address)
    until(lambda: "w7" in text(window, "nodes"), "all nodes are there")
    assert window.run("return document.documentElement.scrollWidth") <= width
    dark = window.run("return getComputedStyle(document.body).backgroundColor") == "rgb(24, 24, 24)"
    assert dark == (scheme == "dark")
    window.run(AXE)
    found = window.run_async("axe.run().then(arguments[arguments.length - 1])")
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == []
    assert found["passes"]


def test_a_failover_is_in_the_picture_of_the_last_changes(window: Browser, agent: Agent) -> None:
    window.visit(agent.address)
    assert window.run("return document.querySelectorAll('#changes svg').length") == 0
    now = time.time()
    changes = (
        Change(FIRST, "", "g1", 1, now - 600, 0, ""),
        Change(FIRST, "g1", "g2", 2, now - 300, 212, ""),
    )
    agent.change(lease_daemon=keeper(changes))
    marks = "return [...document.querySelectorAll('#changes svg .silent')].map(one => one.getBoundingClientRect().x)"
    until(lambda: len(window.run(marks)) == 1, "the silence appears")
    frame = window.run(
        "const r = document.querySelector('#changes svg').getBoundingClientRect(); return [r.x, r.width]"
    )
    assert abs(window.run(marks)[0] - frame[0] - frame[1] / 2) < frame[1] * 0.03, (
        "it is in the middle of the time"
    )
    assert "212 ms" in window.run("return document.querySelector('#changes svg').textContent")


def test_the_keyboard_reaches_each_table(window: Browser, agent: Agent) -> None:
    window.visit(agent.address)
    regions = window.run("return [...document.querySelectorAll('[role=region]')].map(each => each.id)")
    reached = []
    for _ in regions:
        window.press(TAB)
        reached.append(window.run("return document.activeElement.id"))
    assert reached == regions


def test_nothing_is_loaded_from_elsewhere(window: Browser, agent: Agent) -> None:
    window.visit(agent.address)
    loaded = window.run("return performance.getEntriesByType('resource').map(each => each.name)")
    assert all(name.startswith(agent.address) for name in loaded)


def test_the_time_goes_on(window: Browser, agent: Agent) -> None:
    window.visit(agent.address)
    before = text(window, "about")
    until(lambda: text(window, "about") != before, "the time goes on")


def test_members_are_shown_as_they_are(window: Browser, agent: Agent) -> None:
    window.visit(agent.address)
    assert agent.seen.view is not None
    state = agent.seen.view.lease_daemon
    assert state is not None
    gone = tuple(msgspec.structs.replace(one, alive=False, reason="silent for long") for one in state.members)
    agent.change(lease_daemon=msgspec.structs.replace(state, members=gone))
    until(lambda: "silent for long" in text(window, "members"), "they are gone")
