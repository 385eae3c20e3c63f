"""The page for browsers."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from gateway_agent.lease.ipc import Change, Conflict
from gateway_agent.manifests.model import Problem
from gateway_agent.show.html_page import page
from gateway_agent.show.status import status

from .metrics.test_families import ADDRESSES, AT, FIRST, MAC, keeper, view

NASTY = "<script>alert('1')</script>&\"x\""
VOID = {"meta"}


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


def shown(answer: Any) -> Reader:
    reader = Reader(page(answer))
    assert reader.left_open == []
    return reader


def test_it_shows_what_status_says() -> None:
    lost, change = Change(FIRST, "g2", "", 2, AT, 0, ""), Change(FIRST, "", "g1", 3, AT, 212, "g2 unheard")
    conflict = Conflict(FIRST, ADDRESSES[0], MAC, "eth1", AT)
    texts = shown(status(view(keeper((lost, change), conflicts=(conflict,))))).texts
    for expected in (
        "g1", "Roles: node, gateway", "partner", *ADDRESSES, "no master", "no node is ready", "2026-11-21T21:00:00Z",
        "none → g1, silent for 212 ms", f"{MAC} claims the address too", "unheard for 999 ms", "999 ms ago",
        "Voters: g1, g2, w1 (set 2)", "accepted", "a.yaml: spec: is bad",
    ):  # fmt: skip
        assert expected in texts, expected


def test_an_isolated_node_says_so() -> None:
    answer = status(view())
    assert not any("Isolated" in text for text in shown(answer).texts)
    assert any("Isolated" in text for text in shown({**answer, "isolated": True}).texts)


def test_nothing_is_fetched_and_nothing_runs() -> None:
    reader = shown(status(view()))
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    assert not {"src", "href", "onclick"} & {name for name, _ in reader.attributes}


@pytest.mark.parametrize("key", ["gateway", "ip", "master", "reason", "since", "state", "conflict"])
def test_text_is_only_text_in_tables(key: str) -> None:
    answer = status(view())
    answer["egressIPs"][0][key] = NASTY
    reader = shown(answer)
    assert "script" not in reader.tags
    assert any(NASTY in text for text in reader.texts)


def test_control_characters_are_shown_and_not_obeyed() -> None:
    answer = status(view())
    answer["egressIPs"][0]["reason"] = "\x1b[2J\u202eevil\n\x00"
    assert "\\x1b[2J\\u202eevil\\n\\x00" in shown(answer).texts
    assert all(line.isprintable() for line in page(answer).splitlines())


def test_text_is_only_text_elsewhere() -> None:
    seen = view()
    answer = status(replace(seen, problems=(Problem(NASTY, NASTY, NASTY, NASTY),)))
    answer["members"][0] |= {"node": NASTY, "reason": NASTY}
    answer |= {"node": NASTY, "roles": [NASTY], "voters": [NASTY], "counters": {NASTY: 1}}
    reader = shown(answer)
    assert "script" not in reader.tags
    # Title, heading, roles, voters, counter, two cells of the member, the problem.
    assert sum(NASTY in text for text in reader.texts) == 8
