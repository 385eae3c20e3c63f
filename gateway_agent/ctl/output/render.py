"""Render answers as text for people: tables, in colour only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ... import change_text
from ...printable import printable
from .layout import GAP, fitted

if TYPE_CHECKING:
    from ..doctor import Finding

Answer = Mapping[str, Any]
ARROW = "->"
"""Between the masters of a change: plain ASCII, for any terminal."""
STYLES = {
    "master": "green",
    "gateway": "green",
    "yes": "green",
    "no": "red",
    "dropped": "bold red",
    "wrong": "bold red",
    "ok": "green",
    "direct": "yellow",
    "none": "yellow",
    "no answer": "bold red",
    "OK": "green",
}
MAX_TEXT_CHARS = 10_000
"""Largest number of characters of one text that are shown: a list of prefixes may be long."""
MAX_PROBLEMS = 20
"""Largest number of problems that status shows without ``-o wide``."""
PIPED_WIDTH = 10_000
"""Width without a terminal, so that names are never wrapped."""


class Page:
    """Writer of text to ``file`` (default: stdout). ``NO_COLOR`` is respected.

    ``wide``: all columns, each row on one line, and no list is shortened.
    """

    def __init__(self, file: TextIO | None = None, wide: bool = False) -> None:
        file = file or sys.stdout
        width = None if file.isatty() and not wide else PIPED_WIDTH
        self.wide = wide
        self._console = Console(file=file, markup=False, highlight=False, emoji=False, width=width)

    def line(self, text: str, style: str = "") -> None:
        """Print one line. Control characters are escaped, and no word is split."""
        shown = printable(text, MAX_TEXT_CHARS)
        before = self._console.width
        self._console.width = max(before, *map(cell_len, shown.split() or [""]))
        self._console.print(Text(shown, style))
        self._console.width = before

    def table(
        self, headings: Sequence[str], rows: Iterable[Sequence[object]], spare: Sequence[str] = ()
    ) -> None:
        """Print a table. ``spare``: columns that are left out one by one if it does not fit the terminal."""
        cells = [[printable(str(cell), MAX_TEXT_CHARS) for cell in row] for row in rows]
        columns, widths = fitted(headings, cells, self._console.width, spare)
        shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        for number, width in zip(columns, widths, strict=True):
            shown.add_column(headings[number], width=width, overflow="fold")
        for row in cells:
            shown.add_row(*(Text(row[number], STYLES.get(row[number], "")) for number in columns))
        # The terminal wraps long lines: rich would shrink columns and split addresses.
        total = max(self._console.width, sum(widths) + GAP * len(widths))
        before, self._console.width = self._console.width, total
        with self._console.capture() as captured:
            self._console.print(shown)
        self._console.width = before
        if self._console.is_terminal:
            self._console.file.write(captured.get())
            if missing := [heading for number, heading in enumerate(headings) if number not in columns]:
                self.line(f"(-o wide adds {', '.join(missing)})", "dim")
            return
        # Cells are padded to the width of their column. In a pipe, trailing spaces are useless.
        for line in captured.get().splitlines():
            self._console.file.write(line.rstrip() + "\n")


def status(answer: Any, page: Page) -> None:
    """Print the answer of ``egressctl status``."""
    _verdict(answer.get("verdict"), page)
    page.line(f"node {answer['node']}, roles: {', '.join(answer['roles'])}")
    if answer["isolated"]:
        page.line(
            "isolated: it has no contact with a majority of the voters and forwards nothing new", "bold red"
        )
    page.line("")
    headings = ("GATEWAY", "IP", "MASTER", "EPOCH", "SINCE", "STATE", "PODS", "LAST CHANGE", "REASON")
    spare = ("SINCE", "EPOCH", "LAST CHANGE", "PODS", "REASON")
    page.table(headings, map(_egress_row, answer["egressIPs"]), spare)
    if answer["members"]:
        page.line("")
        columns = ("EGRESS NODE", "ALIVE", "READY", "LAST SEEN", "REASON")
        page.table(columns, map(_member_row, answer["members"]), ("LAST SEEN",))
    _started_beside(answer.get("startedBeside") or {}, page)
    if answer["problems"]:
        page.line("")
        page.line("problems:", "bold red")
        problems = answer["problems"]
        shown = problems if page.wide else problems[:MAX_PROBLEMS]
        for problem in shown:
            page.line(f"  {problem_text(problem)}")
        if len(shown) < len(problems):
            page.line(f"  and {len(problems) - len(shown)} more: egressctl status -o wide")
    if page.wide and "voters" in answer:
        page.line("")
        voters = ", ".join(answer["voters"]) or "none are known"
        page.line(f"voters: {voters} (set {answer['voterSet']})")
        page.table(("MESSAGES", "NUMBER"), answer["counters"].items())


def _verdict(verdict: Answer | None, page: Page) -> None:
    """Print the verdict as the first line, and with ``-o wide`` all findings. An older agent gives no verdict."""
    if verdict is None:
        return
    page.line(verdict["text"], "green" if verdict["ok"] else "bold red")
    more = verdict["findings"][1:]
    for finding in more if page.wide else ():
        page.line(finding["text"])
    if more and not page.wide:
        page.line(f"and {len(more)} more: egressctl status -o wide")


def _started_beside(beside: Answer, page: Page) -> None:
    held, loose = beside.get("held", 0), beside.get("loose", 0)
    if held or loose:
        page.line("")
        text = f"pods that started beside the plugin: {held + loose}, of which packets may have left: {loose}"
        page.line(text, "bold red" if loose else "")
        last = beside["latest"][-1]
        page.line(f"  last: {last['namespace']}/{last['name']} at {last['at']}")


def _egress_row(egress: Answer) -> Sequence[object]:
    alone = "held without a majority" if egress["survivor"] else ""
    return (
        egress["gateway"],
        egress["ip"] or "-",
        egress["master"] or "none",
        egress["epoch"],
        egress["since"] or "-",
        egress["state"],
        egress["pods"],
        change_text.last_change(egress["lastChange"], ARROW),
        "; ".join(part for part in (alone, egress["reason"]) if part),
    )


def _member_row(member: Answer) -> Sequence[object]:
    alive, ready = ("yes" if member[key] else "no" for key in ("alive", "ready"))
    silent_ms = member["lastHeardMs"]
    return member["node"], alive, ready, "never" if silent_ms < 0 else f"{silent_ms} ms ago", member["reason"]


def pods(rows: Any, page: Page) -> None:
    """Print the answer of ``egressctl pods``."""
    headings = ("NAMESPACE", "NAME", "INTERFACE", "POLICIES", "GATEWAY", "VERDICT", "IP", "VIA")
    page.table(headings, map(_pod_row, rows), ("INTERFACE", "POLICIES", "VIA", "GATEWAY"))


def _pod_row(row: Answer) -> Sequence[object]:
    policies = ", ".join(row["policies"])
    shown = (row["interface"], policies, row["gateway"], row["verdict"], row["ip"], row["via"])
    return row["namespace"], row["name"], *(text or "-" for text in shown)


def explain(answer: Any, page: Page) -> None:
    """Print the answer of ``egressctl explain``."""
    page.line(answer["pod"] + (f" to {answer['destination']}" if answer["destination"] else ""))
    page.line("")
    steps = ((step["step"], step["result"], step["reason"]) for step in answer["steps"])
    page.table(("STEP", "RESULT", "REASON"), steps)
    page.line("")
    if len(answer.get("ways", ())) > 1:
        page.line("verdict: depends on the destination")
        return
    end = f", leaves by {answer['via']} as {answer['ip']}" if answer["verdict"] == "gateway" else ""
    page.line(f"verdict: {answer['verdict']}{end}", STYLES.get(answer["verdict"], ""))


def events(rows: Any, page: Page) -> None:
    """Print the answer of ``egressctl events``."""
    headings = ("AT", "GATEWAY", "IP", "CHANGE", "EPOCH", "SILENT", "REASON")
    page.table(headings, map(_event_row, rows), ("EPOCH", "REASON", "SILENT"))


def _event_row(row: Answer) -> Sequence[object]:
    silent = f"{row['silentMs']} ms"
    return (
        row["at"],
        row["gateway"],
        row["ip"] or "-",
        change_text.masters(row, ARROW),
        row["epoch"],
        silent,
        row["reason"],
    )


def key(answer: Any, page: Page) -> None:
    """Print the answer of ``egressctl key``."""
    page.line(f"node {answer['node']} signs with {answer['signs']}, accepts {', '.join(answer['accepts'])}")
    if answer["peers"]:
        page.line("")
        page.table(("NODE", "ADDRESS", "SIGNS WITH", "LAST SEEN", "ACCEPTS"), map(_key_row, answer["peers"]))
    page.line("")
    page.line(f"next: {answer['next']}")


def _key_row(peer: Answer) -> Sequence[object]:
    last_message = "never" if peer["lastHeardMs"] < 0 else f"{peer['lastHeardMs']} ms ago"
    signs = peer["signs"] or "-"
    accepts = "-" if peer["accepts"] is None else ", ".join(peer["accepts"])
    return (
        peer["node"],
        peer["address"],
        signs if peer["known"] else f"{signs} (not known here)",
        last_message,
        accepts,
    )


def drain(answer: Any, page: Page) -> None:
    """Print the answer of ``egressctl drain``."""
    for moved in answer["moved"]:
        page.line(f"{_named(moved)} -> {moved['master'] or 'none'}")
    for left in answer["left"]:
        page.line(f"{_named(left)} is still here: no other node has taken it over", "bold red")
    page.line(f"node {answer['node']} is drained: it takes nothing until egressctl undrain")


def undrain(answer: Any, page: Page) -> None:
    """Print the answer of ``egressctl undrain``."""
    page.line(f"node {answer['node']} can be master again")


def handover(answer: Any, page: Page) -> None:
    """Print the answer of ``egressctl handover``."""
    silent = f", silent for {answer['silentMs']} ms" if answer["silentMs"] else ""
    page.line(
        f"{_named(answer)}: {answer['before'] or 'none'} -> {answer['master']}, epoch {answer['epoch']}{silent}"
    )


def _named(egress: Answer) -> str:
    return " ".join(part for part in (egress["gateway"], egress["ip"]) if part)


def doctor(findings: Sequence[Finding], page: Page) -> None:
    """Print the findings of ``egressctl doctor``."""
    rows = ((f.what, "wrong" if f.wrong else "ok" if f.judged else "", f.found, f.hint) for f in findings)
    page.table(("WHAT", "", "FOUND", "WHAT TO DO"), rows)


FORMS: Mapping[str, Callable[[Any, Page], None]] = {
    "status": status,
    "pods": pods,
    "explain": explain,
    "events": events,
    "key": key,
    "drain": drain,
    "undrain": undrain,
    "handover": handover,
}


def problem_text(problem: Answer) -> str:
    """Return a problem as one line of text."""
    where = f"{problem['source']}: {problem['path']}: " if problem["path"] else f"{problem['source']}: "
    return f"{where}{problem['message']}" + (f" ({problem['hint']})" if problem["hint"] else "")
