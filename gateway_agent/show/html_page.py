"""Render the status of one node as a self-contained HTML page: no script, no external resource."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape as escaped
from typing import Any

from .. import printable

Answer = Mapping[str, Any]
REFRESH_S = 2
"""Seconds after which the browser reloads the page."""
STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 0 0 1.5em } caption { text-align: left; font-weight: 600; padding: .3em 0 }
th, td { text-align: left; padding: .2em 1.2em .2em 0; border-bottom: 1px solid #ddd; vertical-align: top }
th { font-weight: 500; color: #666 } .good { color: #176b2c } .bad { color: #b00020; font-weight: 600 }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818 } th, td { border-color: #444 } th { color: #999 }
  .good { color: #6fcf87 } .bad { color: #ff6b7d }
}
"""
GOOD, BAD = {"master", "yes"}, {"no", "no master"}


def escape(text: str) -> str:
    """Return ``text`` escaped for HTML. Control and bidirectional formatting characters become visible."""
    return escaped(printable.printable(text))


def page(status: Answer) -> str:
    """Return the result of :func:`gateway_agent.show.status.status` as HTML. All text in it is escaped."""
    node = escape(status["node"])
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{REFRESH_S}">',
        f"<title>{node}: egress gateway</title><style>{STYLE}</style></head><body>",
        f"<h1>{node}</h1><p>Roles: {escape(', '.join(status['roles']))}</p>",
    ]
    if status["isolated"]:
        parts.append(
            '<p class="bad">Isolated: it hears no majority of the voters and forwards nothing new.</p>'
        )
    parts += _problems(status["problems"])
    egress = (
        "Gateway",
        "Address",
        "Master",
        "Epoch",
        "Since",
        "This node",
        "Pods here",
        "Last change",
        "Reason",
    )
    parts += _table("Egress IPs", egress, map(_egress_row, status["egressIPs"]))
    members = ("Node", "Alive", "Ready", "Heard", "Reason")
    parts += _table("Egress nodes", members, map(_member_row, status["members"]))
    voters = ", ".join(status["voters"]) or "none are known"
    parts.append(f"<p>Voters: {escape(voters)} (set {status['voterSet']})</p>")
    parts += _table("Messages", ("Result", "Number"), status["counters"].items())
    return "\n".join((*parts, "</body></html>", ""))


def _problems(problems: Sequence[Answer]) -> Iterable[str]:
    if problems:
        yield '<h2 class="bad">Problems</h2><ul>'
        for problem in problems:
            words = ": ".join(
                part for part in (problem["source"], problem["path"], problem["message"]) if part
            )
            hint = f" ({problem['hint']})" if problem["hint"] else ""
            yield f"<li>{escape(words + hint)}</li>"
        yield "</ul>"


def _table(caption: str, headings: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterable[str]:
    yield f"<table><caption>{caption}</caption>"
    yield f"<tr>{''.join(f'<th>{heading}</th>' for heading in headings)}</tr>"
    for row in rows:
        yield f"<tr>{''.join(_cell(str(value)) for value in row)}</tr>"
    yield "</table>"


def _cell(text: str) -> str:
    kind = ' class="good"' if text in GOOD else ' class="bad"' if text in BAD else ""
    return f"<td{kind}>{escape(text)}</td>"


def _egress_row(egress: Answer) -> Sequence[object]:
    alone = "held without a majority" if egress["survivor"] else ""
    conflict = f"{egress['conflict']} claims the address too" if egress["conflict"] else ""
    direct = "traffic leaves directly" if egress["whenNoGateway"] == "Direct" and not egress["master"] else ""
    return (
        egress["gateway"],
        egress["ip"] or "-",
        egress["master"] or "no master",
        egress["epoch"],
        egress["since"] or "-",
        egress["state"],
        egress["pods"],
        _change(egress["lastChange"]),
        "; ".join(part for part in (conflict, alone, direct, egress["reason"]) if part),
    )


def _change(change: Answer | None) -> str:
    if change is None:
        return "-"
    silent = f", silent for {change['silentMs']} ms" if change["silentMs"] else ""
    return f"{change['before'] or 'none'} → {change['after'] or 'none'}{silent}"


def _member_row(member: Answer) -> Sequence[object]:
    alive, ready = ("yes" if member[key] else "no" for key in ("alive", "ready"))
    heard = member["lastHeardMs"]
    return member["node"], alive, ready, "never" if heard < 0 else f"{heard} ms ago", member["reason"]
