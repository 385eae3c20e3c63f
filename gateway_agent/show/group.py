"""Compute the answer about the state of all nodes of the group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cni.version import VERSION

from ..manifest_sets.messages import MAX_DETAIL_CHARS, MAX_HELD, Report
from ..manifests.model import Fault
from .snapshot import NodeSnapshot, master, shown_address
from .verdict import OK, TITLES, findings

NO_ANSWER = "no answer"
HINT = "is its agent running? egressctl doctor there"
Row = dict[str, Any]


def report(view: NodeSnapshot | None, unready: str) -> Report:
    """Return the report on this node. ``unready``: reason why there is no ``view`` yet."""
    if view is None:
        title = TITLES[Fault.NOT_READY]
        return Report(VERSION, False, title, unready[:MAX_DETAIL_CHARS], "see its log", 1, False, (), 0)
    plan = view.plan
    held = [
        shown_address(view, egress) or egress.gateway
        for egress in plan.egress_ips
        if master(view, egress)[0] == plan.node
    ]
    found = findings(view)
    worst = found[0] if found else None
    return Report(
        VERSION,
        not found,
        TITLES[worst.fault] if worst else OK,
        worst.message[:MAX_DETAIL_CHARS] if worst else "",
        worst.hint[:MAX_DETAIL_CHARS] if worst else "",
        len(found),
        any(plan.node in egress.eligible for egress in plan.egress_ips),
        tuple(each[:MAX_DETAIL_CHARS] for each in held[:MAX_HELD]),
        len(held),
    )


def row(node: str, address: str, found: Report | str) -> Row:
    """Return the row of a node. ``found``: the node's report, or the reason why there is none."""
    if isinstance(found, str):
        found = Report("", False, NO_ANSWER, found, HINT, 1, False, (), 0)
        roles = []
    else:
        roles = ["node", "gateway"] if found.gateway else ["node"]
    return {
        "node": node,
        "address": address,
        "ok": found.ok,
        "verdict": found.verdict,
        "roles": roles,
        "held": list(found.held),
        "heldCount": found.held_count,
        "version": found.version,
        "reason": found.reason,
        "hint": found.hint,
        "findings": found.findings,
    }


def answer(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the answer of ``egressctl status --all -o json``: the worst nodes first, then by name."""
    order = {title: number for number, title in enumerate((NO_ANSWER, *TITLES.values()))}
    listed = sorted(rows, key=lambda row: (row["ok"], order.get(row["verdict"], len(order)), row["node"]))
    wrong = [each for each in listed if not each["ok"]]
    if not wrong:
        text = (
            f"{OK}: all nodes, {len(listed)} in number"
            if len(listed) > 1
            else f"{OK}: this node, the only one"
        )
    else:
        first = wrong[0]
        text = f"{len(wrong)} of {len(listed)} nodes not {OK}: {first['node']}: {first['verdict']}: {first['reason']}"
        text += f"; to do: {first['hint']}" if first["hint"] else ""
    return {"ok": not wrong, "text": text, "nodes": listed}
