"""nftables tables by text: the only place that runs ``nft``.

To know later, in any process, whether a table still is as it was made, it carries an empty chain whose name
holds two hashes: of the text that was applied and of what the kernel had right after. A rule, chain or element that
somebody adds or takes away changes the second. Not so the elements of sets with time-outs: these are
written at run time, come and go, and do not count.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

from ..errors import KernelError
from . import generation, table_digest, update
from .table_digest import Table

TIMEOUT_S = 20.0
"""Seconds that one run of ``nft`` may take: a table of 100,000 prefixes takes about one."""
STAMP = "stamp_"
"""What the names of those chains begin with."""
MAX_TRIES = 3
"""How often a change is made again because another program changed nftables in the same moment."""
_applied: dict[tuple[str, ...], str] = {}
"""The text that is in force, as far as this process knows, by the tables that it is about."""
_TIMED = re.compile(r"^\t\tflags .*\btimeout\b", re.MULTILINE)


def ensure(text: str) -> tuple[str, ...]:
    """Applies ``text`` where one of its tables is not as the text makes it. Says which, and why.

    ``text`` is one transaction; each of its tables is removed by a line ``delete table FAMILY NAME`` and, where
    it should stand, made by one ``table FAMILY NAME {``. Tables that still are as a text made them that this process
    knows are updated and not replaced: a replacement costs packets. Raises :class:`KernelError`.
    """
    found = _look(text)
    wrong = {table: problem for table, (problem, _) in found.items() if problem}
    if not wrong:
        return ()
    before = _applied.get(tuple(found), "")
    untouched = before and all(stamp == _digest(before) for _, stamp in found.values())
    steps = update.update(before, text) if untouched else None
    apply(text, steps)
    verb = "replaced" if steps is None else "updated"
    return tuple(f"{verb} nftables table {table}: {problem}" for table, problem in wrong.items())


def missing(text: str) -> tuple[str, ...]:
    """Which tables are not as ``text`` makes them, and why. Changes nothing."""
    return tuple(
        f"nftables table {table}: {problem}" for table, (problem, _) in _look(text).items() if problem
    )


def remember(text: str) -> None:
    """``text`` may be what an earlier process has applied: then :func:`ensure` need not replace its tables."""
    _applied[tuple(_replaced(text))] = text


def apply(text: str, steps: tuple[str, ...] | None = None) -> None:
    """Runs the transaction and stamps its tables. ``steps``: transactions that come to the same."""
    for _ in range(MAX_TRIES):
        transactions = (text,) if steps is None else ("".join(_stamp_removals(text)), *steps)
        with generation.TransactionCounter(_timed_sets(text)) as watch:
            for transaction in filter(None, transactions):
                run("-f", "-", text=transaction)
            remember(text)
            stamps = _stamps(text)
            # Else somebody's change may be in the listing: it would pass for ours.
            alone = watch.transactions() == len(list(filter(None, transactions)))
        if alone:
            if stamps:
                run("-f", "-", text=stamps)
            return
        steps = None
    raise KernelError("nft: another program changes the ruleset all the time", "see nft monitor")


def run(*arguments: str, text: str = "") -> str:
    """Output of ``nft`` with these arguments and ``text`` on its standard input."""
    program = shutil.which("nft", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if program is None:
        raise KernelError("nft: not found", "install nftables")
    try:
        done = subprocess.run(
            [program, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"nft: {error}") from error
    if done.returncode:
        words = done.stderr.strip() or f"exit code {done.returncode}"
        raise KernelError(f"nft: {words.splitlines()[0]}", "see nft list ruleset")
    return done.stdout


def _replaced(text: str) -> list[str]:
    return re.findall(r"^delete table (\w+ \w+)$", text, re.MULTILINE)


def _made(text: str) -> list[str]:
    return re.findall(r"^table (\w+ \w+) \{$", text, re.MULTILINE)


def _timed_sets(text: str) -> dict[str, frozenset[str]]:
    """For each of the text's tables the sets whose elements are not the text's."""
    blocks = update.tables(text)
    return {
        table: frozenset(
            name
            for (kind, name), body in blocks.get(table, {}).items()
            if kind == "set" and _TIMED.search(body)
        )
        for table in _replaced(text)
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamps(text: str) -> str:
    lines = []
    for table in _made(text):
        found = table_digest.look(table, STAMP)
        if found is None:
            hint = "does another program flush the ruleset?"
            raise KernelError(f"nftables table {table} vanished right after it was made", hint)
        lines.append(f"add chain {table} {STAMP}{_digest(text)}_{found.digest}\n")
    return "".join(lines)


def _stamp_removals(text: str) -> Iterator[str]:
    for table in _made(text):
        found = table_digest.look(table, STAMP)
        for hashes in found.marks if found else ():
            yield f"delete chain {table} {STAMP}{hashes}\n"


def _look(text: str) -> dict[str, tuple[str, str]]:
    """For each table what is wrong with it, and the digest of the text whose work it is, untouched since."""
    made, digest = _made(text), _digest(text)
    return {
        table: _judge(table_digest.look(table, STAMP), table in made, digest) for table in _replaced(text)
    }


def _judge(found: Table | None, wanted: bool, digest: str) -> tuple[str, str]:
    if found is None:
        return ("missing" if wanted else "", "")
    if not wanted:
        return ("not needed", "")
    if len(found.marks) != 1:
        return ("not finished", "")
    applied, _, listed = found.marks[0].partition("_")
    if listed != found.digest:
        return ("changed by somebody else", "")
    return ("" if applied == digest else "out of date", applied)
