"""Read what an agent shows over HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from ..lab.node import Node

LISTEN = ("127.0.0.1", 9479)


def asked(node: Node, path: str) -> tuple[int, str]:
    """Status and text of an answer, asked on the node itself."""

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{LISTEN[0]}:{LISTEN[1]}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return node.machine.inside(ask)


def value(node: Node, name: str, /, **labels: str) -> float | None:
    """Return the value of the one series that has these labels; None if there is none."""
    found = _values(node, name, labels)
    assert len(found) < 2, f"{name} {labels} is not one series: {found}"
    return found[0] if found else None


def total(node: Node, name: str, /, **labels: str) -> float:
    """Return the sum of all series that have these labels among their own."""
    return sum(_values(node, name, labels))


def _values(node: Node, name: str, labels: dict[str, str]) -> list[float]:
    _, text = asked(node, "/metrics")
    return [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"egress_gateway_{name}" and labels.items() <= sample.labels.items()
    ]
