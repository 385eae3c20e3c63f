"""Render answers about several nodes: their state, a test, connections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .render import Answer, Page

MAX_HELD = 4
"""Largest number of addresses in the line of a node without ``-o wide``."""


def test(answer: Any, page: Page) -> None:
    """Print the answer of ``egressctl test``."""
    headings = ("NODE", "GATEWAY", "IP", "MASTER", "RESULT", "TO", "LEFT AS", "ANSWER", "BY", "REASON")
    page.table(headings, map(_test_row, answer["tests"]), ("LEFT AS", "BY", "NODE", "ANSWER"))


def _test_row(row: Answer) -> Sequence[object]:
    took = f" in {row['milliseconds']} ms" if row["milliseconds"] is not None else ""
    path = row["ip"], row["master"], row["result"], row["destination"], row["leftAs"]
    outcome = f"{row['answer']}{took}", row["answeredBy"], row["reason"]
    return row["node"], row["gateway"], *(text or "-" for text in (*path, *outcome))


def whois(answer: Any, page: Page) -> None:
    """Print the answer of ``egressctl whois``."""
    if answer["connections"]:
        headings = ("START", "END", "POD", "NODE", "PROTOCOL", "TO", "OUT", "IN", "GATEWAY", "MASTER")
        page.table(headings, map(_connection_row, answer["connections"]), ("GATEWAY", "OUT", "IN", "MASTER"))
    else:
        page.line("no connection was found" if answer["log"] else "none is open, and this node has no log")
    for silent in answer["silent"]:
        page.line(f"node {silent['node']} was not asked: {silent['reason']}", "yellow")


def _connection_row(row: Answer) -> Sequence[object]:
    end = "open" if row["open"] else row["end"] or "-"
    pod = f"{row['namespace']}/{row['pod']}" if row["pod"] else "-"
    to = f"[{row['destination']}]" if ":" in row["destination"] else row["destination"]
    counted = ("-" if row[name] is None else row[name] for name in ("bytesOut", "bytesIn"))
    path = (
        pod,
        row["node"] or row["nodeAddress"] or "-",
        row["protocol"],
        f"{to}:{row['destinationPort'] or ''}",
    )
    return row["start"] or "-", end, *path, *counted, row["gateway"], row["by"]


def group(answer: Any, page: Page) -> None:
    """Print the answer of ``egressctl status --all``."""
    page.line(answer["text"], "green" if answer["ok"] else "bold red")
    page.line("")
    headings = ("NODE", "ADDRESS", "VERDICT", "ROLES", "HOLDS", "VERSION", "MORE", "REASON", "WHAT TO DO")
    spare = ("WHAT TO DO", "ADDRESS", "MORE", "ROLES", "VERSION")
    page.table(headings, (_node_row(row, page.wide) for row in answer["nodes"]), spare)


def _node_row(row: Answer, wide: bool) -> Sequence[object]:
    named = row["held"] if wide else row["held"][:MAX_HELD]
    more = row["heldCount"] - len(named)
    held = ", ".join(named) + (f" and {more} more" if more > 0 else "")
    texts = row["address"], row["verdict"], ", ".join(row["roles"]), held, row["version"]
    others = max(0, row["findings"] - 1)
    rest = f"+{others}" if others else "", row["reason"], row["hint"]
    return row["node"], *(text or "-" for text in (*texts, *rest))


FORMS: Mapping[str, Callable[[Any, Page], None]] = {"test": test, "whois": whois, "group": group}
