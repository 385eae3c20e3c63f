"""The picture of the last changes."""

from __future__ import annotations

import itertools
import re
from typing import Any
from xml.etree import ElementTree

from gateway_agent.show.page.time_line import LABEL_PERCENT, MAX_BARS, picture

NOW = "2026-11-21T22:00:00Z"


def change(minute: int, before: str, after: str, silent: int = 0, **more: Any) -> dict[str, Any]:
    at = f"2026-11-21T21:{minute:02d}:00Z"
    return {
        "at": at,
        "gateway": "partner",
        "ip": "172.16.0.50",
        "before": before,
        "after": after,
        "silentMs": silent,
        **more,
    }


def drawn(*changes: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(picture(changes, NOW))


def boxes(svg: ElementTree.Element, kind: str) -> list[tuple[int, int]]:
    found = [each for each in svg.iter("rect") if each.get("class") == kind]
    return [(int(each.get("x", "").rstrip("%")), int(each.get("width", "").rstrip("%"))) for each in found]


def texts(svg: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in svg.iter("text")]


def test_a_bar_is_in_parts_by_master_with_the_silence_of_each_change() -> None:
    svg = drawn(change(0, "", "g1"), change(30, "g1", "g2", 212), change(45, "g2", "g3"))
    assert boxes(svg, "master") == [(0, 50), (50, 25), (75, 25)]
    assert boxes(svg, "silent") == [(50, 3)]
    assert boxes(svg, "planned") == [(0, 3), (75, 3)]
    assert texts(svg)[:4] == ["partner 172.16.0.50", "g1", "g2", "g3"]
    assert "212 ms" in texts(svg)
    assert "3 changes" in svg.get("aria-label", "")
    assert "longest silence 212 ms" in svg.get("aria-label", "")


def test_a_time_without_a_master_is_empty() -> None:
    svg = drawn(change(0, "", "g1"), change(30, "g1", ""), change(45, "", "g2", 900_000))
    assert boxes(svg, "master") == [(0, 50), (75, 25)]
    assert boxes(svg, "ends") == [(50, 3)]
    assert boxes(svg, "silent") == [(75, 3)]


def test_the_master_before_the_first_change_is_known() -> None:
    svg = drawn(change(0, "g1", "g2", 212, ip=""), change(30, "g1", "g2", 100))
    assert boxes(svg, "master")[0] == (0, 100), "its change is the first of all"
    assert (0, 50) in boxes(svg, "master")
    assert "partner" in texts(svg)


def test_texts_do_not_lie_upon_each_other() -> None:
    svg = drawn(*(change(minute, "g1", "g2", 200 + minute) for minute in range(60)))
    labels = [each for each in svg.iter("text") if (each.text or "").endswith(" ms")]
    places = [int(each.get("x", "").rstrip("%")) for each in labels]
    assert len(places) > 2
    assert all(later - earlier >= LABEL_PERCENT for earlier, later in itertools.pairwise(places))


def test_without_changes_there_is_no_picture() -> None:
    assert picture((), NOW) == ""
    assert picture((change(0, "g1", "g1"),), NOW) == "", "a conflict is no change"


def test_many_egress_ips_are_those_that_changed_last() -> None:
    many = [change(number % 60, "g1", "g2", 1, ip=f"172.16.1.{number}") for number in range(50)]
    svg = drawn(*many)
    names = [text for text in texts(svg) if text.startswith("partner ")]
    assert names == sorted(f"partner 172.16.1.{number}" for number in range(50 - MAX_BARS, 50))


def test_text_of_others_is_only_text() -> None:
    svg = picture((change(0, "g1", "<g2>&\"'\x1b"),), NOW)
    assert not re.search(r"<g2>|\x1b", svg)
    assert ElementTree.fromstring(svg).tag == "svg"


def test_a_clock_that_was_set_back_draws_within_the_picture() -> None:
    svg = drawn(change(0, "", "g1"), {**change(30, "g1", "g2"), "at": "2026-11-22T09:00:00Z"})
    assert all(0 <= place <= 100 for place, _ in (*boxes(svg, "master"), *boxes(svg, "planned")))


def test_the_picture_of_a_later_second_is_the_same() -> None:
    changes = (change(0, "", "g1"), change(30, "g1", "g2", 212))
    first, later = (picture(changes, f"2026-11-21T22:00:0{second}Z") for second in (0, 5))
    assert first == later
