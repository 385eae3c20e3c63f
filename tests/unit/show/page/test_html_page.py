"""The page for browsers."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from gateway_agent.lease.ipc import Change, Conflict
from gateway_agent.manifests.model import Problem
from gateway_agent.show import group
from gateway_agent.show.page.html_page import POLICY, SCRIPT, page, sections
from gateway_agent.show.status import events, pods, status

from ..metrics.test_families import ADDRESSES, AT_S, FIRST, MAC, keeper, view

NASTY = "<script>alert('1')</script>&\"x\""
VOID = {"meta"}
NOW = "2026-11-21T22:00:00Z"


def whole(answer: Any, pods: Any = (), events: Any = (), group: Any = None) -> str:
    return page(sections(answer, pods, events, group, NOW, "1.2.3"), answer["node"])


class Reader(HTMLParser):
    """Text of the cells and list items; all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.left_open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.left_open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.left_open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)


def shown(answer: Any, **more: Any) -> Reader:
    reader = Reader(whole(answer, **more))
    assert reader.left_open == []
    return reader


def test_it_shows_what_status_says() -> None:
    lost, change = Change(FIRST, "g2", "", 2, AT_S, 0, ""), Change(FIRST, "", "g1", 3, AT_S, 212, "g2 silent")
    conflict = Conflict(FIRST, ADDRESSES[0], MAC, "eth1", AT_S)
    texts = shown(status(view(keeper((lost, change), conflicts=(conflict,))))).texts
    for expected in (
        "g1", "partner", *ADDRESSES, "no master", "no node is ready", "2026-11-21T21:00:00Z",
        "none → g1, silent for 212 ms", f"{MAC} claims the address too", "silent for 999 ms", "0 s ago",
        f"As of {NOW}. Version 1.2.3. Roles: node, gateway. Voters: g1, g2, w1 (set 2).", "accepted",
        "a.yaml: spec: is bad",
    ):  # fmt: skip
        assert expected in texts, expected


def test_the_verdict_is_on_top() -> None:
    answer = status(view())
    assert answer["verdict"]["text"] in shown(answer).texts[:4]


def test_pods_changes_and_all_nodes_are_shown() -> None:
    change = Change(FIRST, "g2", "g1", 3, AT_S, 212, "g2 silent")
    seen = view(keeper((change,)))
    rows = [
        group.row("g1", "10.0.0.7", group.report(seen, "")),
        group.row("w9", "10.0.0.9", "Connection refused"),
    ]
    more = {"pods": pods(seen)["pods"], "events": events(seen)["events"], "group": group.answer(rows)}
    texts = shown(status(seen), **more).texts
    for expected in ("w9", "no answer", "Connection refused", "g2 → g1", "212 ms", "g2 silent"):
        assert expected in texts, expected
    assert any(row["name"] in texts for row in more["pods"]) or not more["pods"]


def test_only_the_script_of_the_page_runs_and_nothing_is_fetched() -> None:
    text = whole(status(view()))
    reader = Reader(text)
    assert not {"link", "img", "iframe"} & set(reader.tags)
    assert not {"src", "href", "onclick"} & {name for name, _ in reader.attributes}
    assert reader.tags.count("script") == 1
    digest = base64.b64encode(
        hashlib.sha256(text.split("<script>")[1].split("</script>")[0].encode()).digest()
    )
    assert f"script-src 'sha256-{digest.decode()}'" in POLICY
    assert SCRIPT in text


def test_what_does_not_change_is_the_same_text() -> None:
    """What differs is sent to each browser, so heartbeats must not show."""
    answer = status(view())
    later = json.loads(json.dumps(answer))
    later["members"][0]["lastHeardMs"] += 1
    one, other = (sections(each, (), (), None, NOW, "") for each in (answer, later))
    assert one == other


@pytest.mark.parametrize("key", ["gateway", "ip", "master", "reason", "since", "state", "conflict"])
def test_text_is_only_text_in_tables(key: str) -> None:
    answer = status(view())
    answer["egressIPs"][0][key] = NASTY
    reader = shown(answer)
    assert reader.tags.count("script") == 1
    assert any(NASTY in text for text in reader.texts)


def test_control_characters_are_shown_and_not_obeyed() -> None:
    answer = status(view())
    answer["egressIPs"][0]["reason"] = "\x1b[2J\u202eevil\n\x00"
    assert "\\x1b[2J\\u202eevil\\n\\x00" in shown(answer).texts
    assert all(line.isprintable() for line in whole(answer).splitlines())


def test_text_is_only_text_elsewhere() -> None:
    seen = view()
    answer = status(replace(seen, problems=(Problem(NASTY, NASTY, NASTY, NASTY),)))
    answer["members"][0] |= {"node": NASTY, "reason": NASTY}
    answer |= {"node": NASTY, "roles": [NASTY], "voters": [NASTY], "counters": {NASTY: 1}}
    reader = shown(answer)
    assert reader.tags.count("script") == 1
    # Title, heading, roles and voters, counter, two cells and the box of the member, the problem.
    assert sum(NASTY in text for text in reader.texts) == 8
