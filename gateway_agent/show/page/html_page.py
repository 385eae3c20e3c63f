"""Render the state of a node as a self-contained HTML page, whose sections a stream of events replaces one by one."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape as escaped
from typing import Any

from ... import change_text, printable
from . import time_line
from .style import STYLE

Answer = Mapping[str, Any]
ARROW = "→"
Sections = Mapping[str, str]
"""HTML by the id of its element."""
RELOAD_S = 2
"""Seconds after which a browser without scripts reloads the page."""
MAX_ROWS = 200
"""Largest number of pods, and of changes, that the page shows."""
GOOD, BAD = {"master", "yes", "OK", "gateway"}, {"no", "no master", "no answer", "dropped"}
SCRIPT = """\
const lost = document.getElementById("lost");
const stale = () => { lost.textContent = "No news from the agent: this is the last that was known."; };
let timer = setTimeout(stale, 5000);
const events = new EventSource("events");
events.onmessage = event => {
  clearTimeout(timer);
  timer = setTimeout(stale, 5000);
  const sections = JSON.parse(event.data);
  for (const id in sections) document.getElementById(id).innerHTML = sections[id];
  lost.textContent = "";
};
events.onerror = stale;
"""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy: only this script runs, and connects with this agent only."""
TABLES = {
    "egress": "Egress IPs", "nodes": "Nodes", "changes": "Last changes", "pods": "Pods of this node",
    "members": "Egress nodes as this node sees them", "messages": "Messages",
}  # fmt: skip
"""Headings of the sections that have one, in the order of the page."""

EGRESS_HEADINGS = (
    "Gateway", "Address", "Master", "Epoch", "Since", "This node", "Pods here", "Last change", "Reason",
)  # fmt: skip


def escape(text: str) -> str:
    """Return ``text`` escaped for HTML. Control and bidirectional formatting characters become visible."""
    return escaped(printable.printable(text))


def page(sections: Sections, node: str) -> str:
    """Return the whole page."""
    name = escape(node)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<noscript><meta http-equiv="refresh" content="{RELOAD_S}"></noscript>',
        f"<title>{name}: egress gateway</title><style>{STYLE}</style></head><body><main>",
        f'<h1>{name}</h1><div id="verdict" role="status">{sections["verdict"]}</div>',
        '<p id="lost" role="alert" class="bad"></p>',
        f'<p id="about">{sections["about"]}</p><div id="problems">{sections["problems"]}</div>',
    ]
    for identity, heading in TABLES.items():
        # A table that is wider than the screen scrolls by itself, so it can get the keyboard focus and has a name.
        parts.append(
            f'<section><h2 id="{identity}-name">{heading}</h2>'
            f'<div id="{identity}" class="wide" role="region" tabindex="0" aria-labelledby="{identity}-name">'
            f"{sections[identity]}</div></section>"
        )
    parts.append(f"</main><script>{SCRIPT}</script></body></html>\n")
    return "\n".join(parts)


def sections(
    status: Answer,
    pods: Sequence[Answer],
    events: Sequence[Answer],
    group: Answer | None,
    at: str,
    version: str,
) -> dict[str, str]:
    """Return the sections of the page. All text in them is escaped.

    ``status``, ``pods``, ``events``: answers of :mod:`gateway_agent.show.status`. ``group``: the answer of
    :mod:`gateway_agent.show.group`; None if no node was asked yet. ``at``: time of the state.
    """
    return {
        "verdict": _verdict(status["verdict"]),
        "about": escape(_about(status, at, version)),
        "problems": "".join(_problems(status["problems"])),
        "egress": _table(EGRESS_HEADINGS, map(_egress_row, status["egressIPs"])),
        "nodes": _nodes(status, group),
        "changes": time_line.picture(events[-MAX_ROWS:], at) + _changes(events),
        "pods": _pods(pods),
        "members": _table(("Node", "Alive", "Ready", "Heard", "Reason"), map(_member_row, status["members"])),
        "messages": _table(("Result", "Number"), status["counters"].items()),
    }


def _verdict(verdict: Answer) -> str:
    return f'<p class="{"good" if verdict["ok"] else "bad"}">{escape(verdict["text"])}</p>'


def _about(status: Answer, at: str, version: str) -> str:
    voters = ", ".join(status["voters"]) or "none are known"
    roles = ", ".join(status["roles"])
    return f"As of {at}. Version {version}. Roles: {roles}. Voters: {voters} (set {status['voterSet']})."


def _pods(pods: Sequence[Answer]) -> str:
    shown = pods[:MAX_ROWS]
    more = f"<p>and {len(pods) - len(shown)} more: egressctl pods</p>" if len(shown) < len(pods) else ""
    return (
        _table(("Namespace", "Name", "Gateway", "Verdict", "Leaves as", "By node"), map(_pod_row, shown))
        + more
    )


def _nodes(status: Answer, group: Answer | None) -> str:
    """Return the list of all nodes, with the addresses that each one holds as far as this node knows."""
    held: dict[str, list[str]] = {}
    for egress in status["egressIPs"]:
        if egress["master"]:
            held.setdefault(egress["master"], []).append(egress["ip"] or egress["gateway"])
    rows: Sequence[Answer] = group["nodes"] if group else ()
    names = sorted({*held, *(row["node"] for row in rows), *(member["node"] for member in status["members"])})
    known = {row["node"]: row for row in rows}
    return f"<ul class='nodes'>{''.join(_node(name, held.get(name, []), known.get(name)) for name in names)}</ul>"


def _node(name: str, held: Sequence[str], row: Answer | None) -> str:
    kind = "" if row is None else "good" if row["ok"] else "bad"
    verdict = row["verdict"] if row else "not asked yet"
    reason = f"<p>{escape(row['reason'])}</p>" if row and row["reason"] else ""
    version = f"<p>version {escape(row['version'])}</p>" if row and row["version"] else ""
    addresses = "".join(f"<li>{escape(address)}</li>" for address in held)
    holds = f"<p>holds</p><ul>{addresses}</ul>" if held else "<p>holds no address</p>"
    head = f"<h3>{escape(name)}</h3><p class='{kind}'>{escape(verdict)}</p>"
    return f"<li class='node'>{head}{reason}{holds}{version}</li>"


def _changes(events: Sequence[Answer]) -> str:
    if not events:
        return "<p>none yet</p>"
    rows = (
        (
            one["at"],
            one["gateway"],
            one["ip"] or "-",
            change_text.masters(one, ARROW),
            f"{one['silentMs']} ms",
            one["reason"],
        )
        for one in reversed(events[-MAX_ROWS:])
    )
    return _table(("Time", "Gateway", "Address", "Change", "Silence", "Reason"), rows)


def _problems(problems: Sequence[Answer]) -> Iterable[str]:
    if problems:
        yield '<h2 class="bad">Problems</h2><ul>'
        for problem in problems:
            message = ": ".join(
                part for part in (problem["source"], problem["path"], problem["message"]) if part
            )
            hint = f" ({problem['hint']})" if problem["hint"] else ""
            yield f"<li>{escape(message + hint)}</li>"
        yield "</ul>"


def _table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    parts = [
        "<table><thead><tr>",
        *(f'<th scope="col">{heading}</th>' for heading in headings),
        "</tr></thead><tbody>",
    ]
    for row in rows:
        parts += ["<tr>", *(_cell(str(value)) for value in row), "</tr>"]
    return "".join((*parts, "</tbody></table>"))


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
        change_text.last_change(egress["lastChange"], ARROW),
        "; ".join(part for part in (conflict, alone, direct, egress["reason"]) if part),
    )


def _pod_row(row: Answer) -> Sequence[object]:
    shown = row["gateway"], row["verdict"], row["ip"], row["via"]
    return row["namespace"], row["name"], *(text or "-" for text in shown)


def _member_row(member: Answer) -> Sequence[object]:
    alive, ready = ("yes" if member[key] else "no" for key in ("alive", "ready"))
    # In whole seconds: otherwise each heartbeat would change the section.
    last_message = "never" if member["lastHeardMs"] < 0 else f"{member['lastHeardMs'] // 1000} s ago"
    return member["node"], alive, ready, last_message, member["reason"]
