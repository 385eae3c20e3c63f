"""nftables tables by text: the only place that runs ``nft``, or its library.

Theory of operation. A table carries a stamp: an empty chain whose name holds two hashes, of the text that was applied
and of the kernel's table right after (:mod:`cni.kernel.nftables.table_digest`). So any process can find out later if a
table is still as a text made it:

* The first hash is that of the wanted text, and the second that of the kernel's table: nothing is done.
* Only the second hash is right: nothing but our programs has changed the table. If this process knows the text that
  was applied, the table is updated in place, in three transactions (:mod:`cni.kernel.nftables.update`). If not,
  another version of the program has made the table, and it is replaced in two transactions that keep the sets with
  time-outs: the lease daemon continues during the update of the agent, and its leases stay in the fence.
* There is no stamp: a process of ours ended in the middle of a change. The table is replaced in the same way.
* Anything else: another program has changed the table. It is replaced whole: the elements of a restored dump may belong
  to a lease that has ended.

Elements of sets with time-outs are written and removed at run time, and do not count. Each change is watched
(:mod:`cni.kernel.nftables.generation`): if another program has made a transaction at the same time, the second hash
could include its change, so our change is made again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import KernelError
from . import generation, table_digest, update
from .table_digest import Table

if TYPE_CHECKING:
    from . import libnftables

TIMEOUT_S = 20.0
"""Time limit of one run of ``nft``: a table of 100,000 prefixes takes about one second."""
STAMP = "stamp_"
"""The names of those chains begin with it."""
FOREIGN = "changed by another program"
MAX_TRIES = 3
"""Attempts at a change while other programs change nftables at the same time."""
LARGE = 1 << 20
"""Length of a text, in characters, from which on ``nft`` runs as another process."""
_library: list[libnftables.Commands] = []
"""nft's library, if this process keeps it."""
_applied: dict[tuple[str, ...], str] = {}
"""The applied text, as far as this process knows, by the tables of the text."""


@dataclass(frozen=True)
class _Found:
    """One table of a text as it is in the kernel."""

    table: Table | None
    problem: str = ""
    """A fault of the table; empty: it is as the text makes it."""
    applied: str = ""
    """Digest of the text that made the table, if nothing has changed the table since."""

    @property
    def ours(self) -> bool:
        """Return True if nothing but our programs has changed the table, as far as its stamp shows."""
        return self.problem != FOREIGN


def ensure(text: str) -> tuple[str, ...]:
    """Apply ``text`` if one of its tables is not as the text makes it. Return each such table with the reason.

    ``text`` is one transaction; each of its tables is removed by a line ``delete table FAMILY NAME`` and, if it
    should exist, made by one ``table FAMILY NAME {``. Raises :class:`KernelError`.
    """
    found = _inspect(text)
    wrong = {table: each.problem for table, each in found.items() if each.problem}
    if not wrong:
        return ()
    before = _applied.get(tuple(found), "")
    untouched = before and all(each.applied == _digest(before) for each in found.values())
    steps = update.update(before, text) if untouched else None
    if steps is None:
        _replace(text, found)
    else:
        apply(text, steps)
    verb = "replaced" if steps is None else "updated"
    return tuple(f"{verb} nftables table {table}: {problem}" for table, problem in wrong.items())


def missing(text: str) -> tuple[str, ...]:
    """Return each table that is not as ``text`` makes it, with the reason. Changes nothing. Raises KernelError."""
    found = _inspect(text)
    return tuple(f"nftables table {table}: {each.problem}" for table, each in found.items() if each.problem)


def remember(text: str) -> None:
    """Record that an earlier process has applied ``text``: :func:`ensure` then updates its tables in place."""
    _applied[tuple(_replaced(text))] = text


def apply(text: str, steps: tuple[str, ...] | None = None) -> None:
    """Make the transaction and stamp its tables. Raises :class:`KernelError`.

    ``steps``: transactions with the same result; None: ``text`` itself.
    """
    for _ in range(MAX_TRIES):
        transactions = (text,) if steps is None else ("".join(_stamp_removals(text)), *steps)
        with generation.TransactionCounter(_timed_sets(text)) as watch:
            for transaction in filter(None, transactions):
                run("-f", "-", text=transaction)
            remember(text)
            stamps = _stamps(text)
            # Else the listing may have another program's change, which would count as ours.
            alone = watch.transactions() == len(list(filter(None, transactions)))
        if alone:
            if stamps:
                run("-f", "-", text=stamps)
            return
        steps = None
    raise KernelError("nft: another program changes the ruleset all the time", "see nft monitor")


def _replace(text: str, found: Mapping[str, _Found]) -> None:
    """Replace the tables of ``text``. Those that only our programs have changed keep their sets with time-outs."""
    prepared, keeping, made = "", text, _made(text)
    for name, each in found.items():
        if each.table and each.ours and name in made:
            sets = [(one.kind, one.name, one.timed) for one in each.table.sets]
            prepared += update.preparation(text, name, each.table.chains, sets)
            intact = bool(each.applied)
            keeping = update.replacement(keeping, name, each.table.chains, sets, intact)
    if keeping != text:
        try:
            apply(text, (prepared, keeping))
            return
        except KernelError:
            # A set of this name is of another type now.
            pass
    apply(text)


def stay() -> None:
    """Run commands in this process from now on, if ``nft`` has its library here: see :mod:`.libnftables`."""
    # Imported only here: the plugin ends after one call.
    from . import libnftables

    try:
        _library.append(libnftables.Commands())
    except OSError:
        return


def run(*arguments: str, text: str = "") -> str:
    """Return the output of ``nft`` with these arguments and ``text`` on its standard input. Raises KernelError.

    After :func:`stay` the library runs the text, unless it is so large that the library's memory would stay large.
    """
    if _library and len(text) <= LARGE and arguments != ("--version",):
        if arguments == ("-f", "-"):
            return _library[0].run(text)
        kept = [argument for argument in arguments if argument != "-a"]
        return _library[0].run(" ".join(kept), handles="-a" in arguments)
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
        output = done.stderr.strip() or f"exit code {done.returncode}"
        raise KernelError(f"nft: {output.splitlines()[0]}", "see nft list ruleset")
    return done.stdout


def _replaced(text: str) -> list[str]:
    return re.findall(r"^delete table (\w+ \w+)$", text, re.MULTILINE)


def _made(text: str) -> list[str]:
    return re.findall(r"^table (\w+ \w+) \{$", text, re.MULTILINE)


def _timed_sets(text: str) -> dict[str, frozenset[str]]:
    """Return for each of the text's tables the sets whose elements are not the text's."""
    blocks = update.tables(text)
    return {
        table: frozenset(
            name
            for (kind, name), body in blocks.get(table, {}).items()
            if kind == "set" and update.is_timed(body)
        )
        for table in _replaced(text)
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamps(text: str) -> str:
    lines = []
    for table in _made(text):
        found = table_digest.read(table, STAMP)
        if found is None:
            hint = "does another program flush the ruleset?"
            raise KernelError(f"nftables table {table} vanished right after it was made", hint)
        lines.append(f"add chain {table} {STAMP}{_digest(text)}_{found.digest}\n")
    return "".join(lines)


def _stamp_removals(text: str) -> Iterator[str]:
    for table in _made(text):
        found = table_digest.read(table, STAMP)
        for hashes in found.marks if found else ():
            yield f"delete chain {table} {STAMP}{hashes}\n"


def _inspect(text: str) -> dict[str, _Found]:
    made, digest = _made(text), _digest(text)
    return {
        table: _judge(table_digest.read(table, STAMP), table in made, digest) for table in _replaced(text)
    }


def _judge(table: Table | None, wanted: bool, digest: str) -> _Found:
    if table is None:
        return _Found(None, "missing" if wanted else "")
    if not wanted:
        return _Found(table, "not needed")
    if len(table.marks) != 1:
        return _Found(table, "not finished")
    applied, _, listed = table.marks[0].partition("_")
    if listed != table.digest:
        return _Found(table, FOREIGN)
    return _Found(table, "" if applied == digest else "out of date", applied)
