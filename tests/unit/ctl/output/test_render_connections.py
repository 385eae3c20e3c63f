"""The text of ``egressctl test``, ``whois`` and ``status --all``."""

from __future__ import annotations

import io
from typing import Any

from gateway_agent.ctl.output import render_connections
from gateway_agent.ctl.output.render import Page

FOUND = {
    "start": "2026-11-29T10:00:00Z",
    "end": None,
    "open": True,
    "gateway": "partner",
    "protocol": "tcp",
    "destination": "203.0.113.10",
    "destinationPort": 443,
    "namespace": "prod",
    "pod": "web-0",
    "node": "w1",
    "nodeAddress": "10.0.0.21",
    "bytesOut": None,
    "bytesIn": 0,
    "by": "g1",
}
NODE = {
    "node": "g1",
    "address": "10.0.0.7",
    "verdict": "ok",
    "roles": ["egress"],
    "held": [f"172.16.0.{n}" for n in range(6)],
    "heldCount": 9,
    "version": "1.0",
    "findings": 3,
    "reason": "eth1 is down",
    "hint": "ip link",
}


def text(form: str, answer: dict[str, Any], wide: bool = True) -> list[str]:
    file = io.StringIO()
    render_connections.FORMS[form](answer, Page(file, wide=wide))
    return file.getvalue().splitlines()


def test_an_open_connection_and_one_whose_pod_is_not_known() -> None:
    unknown = {**FOUND, "open": False, "pod": "", "node": "", "destination": "2001:db8::1", "start": None}
    lines = text("whois", {"connections": [FOUND, unknown], "silent": [], "log": True})
    first, second = lines[1:3]
    assert first.split()[:5] == ["2026-11-29T10:00:00Z", "open", "prod/web-0", "w1", "tcp"]
    assert "203.0.113.10:443" in first
    assert first.split()[6:8] == ["-", "0"], "a number that is not known is not 0"
    assert second.split()[:4] == ["-", "-", "-", "10.0.0.21"]
    assert "[2001:db8::1]:443" in second


def test_nothing_was_found_with_a_log_and_without_one() -> None:
    silent = [{"node": "g2", "reason": "it does not answer"}]
    assert text("whois", {"connections": [], "silent": silent, "log": True}) == [
        "no connection was found",
        "node g2 was not asked: it does not answer",
    ]
    [line] = text("whois", {"connections": [], "silent": [], "log": False})
    assert line == "none is open, and this node has no log"


def test_the_addresses_of_a_node_are_cut_but_counted() -> None:
    answer = {"text": "1 of 1 nodes is well", "ok": True, "nodes": [NODE]}
    assert "and 3 more" in "".join(text("group", answer)), "the answer itself has the first ones only"
    narrow = "".join(text("group", answer, wide=False))
    assert "172.16.0.3" in narrow
    assert "172.16.0.4" not in narrow
    assert "+2" in "".join(text("group", answer)), "of three findings one is shown"


def test_a_test_without_an_answer_has_a_dash_for_each_unknown() -> None:
    row = dict.fromkeys(("ip", "master", "destination", "leftAs", "answer", "answeredBy", "reason"), "")
    tests = [{**row, "node": "w1", "gateway": "partner", "result": "lost", "milliseconds": None}]
    [_, line] = text("test", {"tests": tests})
    assert line.split() == ["w1", "partner", "-", "-", "lost", "-", "-", "-", "-", "-"]
