"""Compute the HTTP server's answer for each path: metrics, health, status and the page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cni.version import VERSION

from ... import printable
from ...show.metrics.families import Observation, families
from ...show.metrics.form import Family
from ...show.page import html_page
from ...show.snapshot import rfc3339
from ...show.status import events, pods, status

TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """An HTTP response. ``kind``: its Content-Type."""

    status: HTTPStatus
    text: str
    kind: str = TEXT

    @property
    def body(self) -> bytes:
        """Return the text in UTF-8. Problems contain names of files, which may not be valid UTF-8."""
        return self.text.encode("utf-8", "backslashreplace")


def _metrics(seen: Observation) -> Answer:
    registry = CollectorRegistry()
    registry.register(_Families(families(seen)))
    ProcessCollector(registry=registry)
    return Answer(
        HTTPStatus.OK, generate_latest(registry).decode(), "text/plain; version=0.0.4; charset=utf-8"
    )


def _ready(seen: Observation) -> Answer:
    if seen.unready:
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{printable.printable(seen.unready)}\n")
    return Answer(HTTPStatus.OK, "ok\n")


def _status(seen: Observation) -> Answer:
    if seen.view is None:
        nothing = {"error": "the agent has not read its store yet", "hint": seen.unready}
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, json.dumps(nothing) + "\n", "application/json")
    return Answer(HTTPStatus.OK, json.dumps(status(seen.view), indent=2) + "\n", "application/json")


def _page(seen: Observation) -> Answer:
    found = sections(seen)
    if found is None:
        why = f"the agent has not read its store yet: {printable.printable(seen.unready)}\n"
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, why)
    return Answer(HTTPStatus.OK, html_page.page(found, seen.node), "text/html; charset=utf-8")


def sections(seen: Observation) -> dict[str, str] | None:
    """Return the sections of the page; None before the store has been read."""
    view = seen.view
    if view is None:
        return None
    changes, shown = events(view)["events"], pods(view)["pods"]
    return html_page.sections(status(view), shown, changes, seen.group, rfc3339(time.time()), VERSION)


PAGES: dict[str, Callable[[Observation], Answer]] = {
    "/": _page, "/metrics": _metrics, "/readyz": _ready, "/status": _status,
}  # fmt: skip


class _Families(Collector):
    def __init__(self, found: Iterable[Family]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        for family in self._found:
            # The library adds the suffix of counters itself.
            metric = Metric(family.name.removesuffix("_total"), family.help, family.kind)
            for sample in family.samples:
                labels = {k: _encodable(v) for k, v in sample.labels.items()}
                metric.add_sample(family.name + sample.suffix, labels, sample.value)
            yield metric


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
