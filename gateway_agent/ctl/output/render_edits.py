"""Render the changes that an edit of the manifests would make, and the nodes that have applied it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .render import Answer, Page

MAX_PREFIXES = 3
"""Largest number of prefixes of a changed pod that are shown without ``-o wide``."""


def diff(answer: Any, page: Page) -> None:
    """Print the answer of ``egressctl diff``."""
    if not (answer["pods"] or answer["egressIPs"]):
        page.line("no pod and no address would change")
        return
    if answer["egressIPs"]:
        headings = ("GATEWAY", "IP", "CHANGE", "MASTER", "NODES BEFORE", "NODES AFTER")
        page.table(headings, map(_changed_address, answer["egressIPs"]))
        page.line("")
    if answer["pods"]:
        columns = ("NAMESPACE", "NAME", "NODE", "DESTINATIONS", "BEFORE", "AFTER", "CONNECTIONS")
        page.table(columns, (row for pod in answer["pods"] for row in _changed_pod(pod, page.wide)))
        page.line("")
    number = len(answer["pods"])
    pods = "1 pod changes" if number == 1 else f"{number} pods change"
    known = "unknown" if answer["connections"] is None else answer["connections"]
    page.line(f"{pods}; open connections that would end on node {answer['node']}: {known}")


def _changed_address(row: Answer) -> Sequence[object]:
    before, after = (", ".join(row[name]) or "-" for name in ("nodesBefore", "nodesAfter"))
    return row["gateway"], row["ip"] or "-", row["change"], row["master"] or "-", before, after


def _changed_pod(pod: Answer, wide: bool) -> Iterable[Sequence[object]]:
    """Yield one row for each pair of exits; the first row has the number of connections."""
    count = "-" if pod["connections"] is None else str(pod["connections"])
    for change in pod["changes"]:
        prefixes = change["destinations"]
        shown = prefixes if wide else prefixes[:MAX_PREFIXES]
        more = f" and {len(prefixes) - len(shown)} more" if len(shown) < len(prefixes) else ""
        subject = (pod["namespace"], pod["name"], pod["node"] or "-")
        yield *subject, ", ".join(shown) + more, change["before"], change["after"], count
        count = ""


def push(answer: Any, page: Page) -> None:
    """Print the answer of ``egressctl push``."""
    if answer["nodes"]:
        rows = ((row["node"], row["outcome"], row["detail"]) for row in answer["nodes"])
        page.table(("NODE", "OUTCOME", "DETAIL"), rows)
        page.line("")
    if answer["failure"]:
        hint = f" ({answer['hint']})" if answer["hint"] else ""
        page.line(f"{answer['failure']}{hint}", "bold red")
        return
    reached = len(answer["nodes"]) - len(answer["failed"])
    page.line(f"set {answer['set']}: on {reached} of {answer['total']} nodes")
    if answer["failed"]:
        page.line("a node that was away takes the set when it is back", "yellow")


FORMS: Mapping[str, Callable[[Any, Page], None]] = {"diff": diff, "push": push}
