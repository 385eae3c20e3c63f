"""nftables tables by text: the only place that runs ``nft``.

To know later, in any process, whether a table still is as it was made, it carries an empty chain whose name
holds two hashes: of the text that was applied and of the listing that the kernel gave right after. A rule, chain
or element that somebody adds or takes away changes the listing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess

from . import nft_update
from .errors import KernelError

TIMEOUT = 20.0
"""Seconds that one run of ``nft`` may take: a table of 100,000 prefixes takes about one."""
STAMP = "stamp"
_applied: dict[str, str] = {}
"""The text that this process applied last, by its digest."""
_STAMP_CHAIN = re.compile(r"\n?\tchain " + STAMP + r"_(\w+) \{\n\t\}\n")


def ensure(text: str) -> tuple[str, ...]:
    """Applies ``text`` where one of its tables is not as the text makes it. Says which, and why.

    ``text`` is one transaction; each of its tables is removed by a line ``delete table FAMILY NAME`` and, where
    it should stand, made by one ``table FAMILY NAME {``. Tables that are as this process has made them are updated
    and not replaced. Raises :class:`KernelError`.
    """
    found = _look(text)
    wrong = {table: problem for table, (problem, _) in found.items() if problem}
    if not wrong:
        return ()
    stamps = {stamp for _, stamp in found.values()}
    before = _applied.get(next(iter(stamps)), "") if len(stamps) == 1 else ""
    steps = nft_update.update(before, text) if before else None
    apply(text, steps)
    verb = "replaced" if steps is None else "updated"
    return tuple(f"{verb} nftables table {table}: {problem}" for table, problem in wrong.items())


def missing(text: str) -> tuple[str, ...]:
    """Which tables are not as ``text`` makes them, and why. Changes nothing."""
    return tuple(f"nftables table {table}: {problem}" for table, (problem, _) in _look(text).items() if problem)


def apply(text: str, steps: tuple[str, ...] | None = None) -> None:
    """Runs the transaction and stamps its tables. ``steps``: transactions that come to the same."""
    if steps is None:
        run("-f", "-", text=text)
    else:
        old = [f"delete chain {table} {name}\n" for table in _made(text) for name in _stamps(table)]
        for step in ("".join(old), *steps):
            run("-f", "-", text=step)
    _applied.clear()
    _applied[_digest(text)] = text
    stamps = []
    for table in _made(text):
        listing = _listing(table)
        if listing is None:
            hint = "does another program flush the ruleset?"
            raise KernelError(f"nftables table {table} vanished right after it was made", hint)
        stamps.append(f"add chain {table} {STAMP}_{_digest(text)}_{_digest(listing)}\n")
    if stamps:
        run("-f", "-", text="".join(stamps))


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
            timeout=TIMEOUT,
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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _listing(table: str) -> str | None:
    """The table without counters, numbers unnamed; None where there is none."""
    try:
        return run("-s", "-n", "list", "table", *table.split())
    except KernelError as error:
        if "No such file" in error.message:
            return None
        raise


def _stamps(table: str) -> list[str]:
    return [f"{STAMP}_{hashes}" for hashes in _STAMP_CHAIN.findall(_listing(table) or "")]


def _look(text: str) -> dict[str, tuple[str, str]]:
    """For each table what is wrong with it, and the digest of the text whose work it is, untouched since."""
    made, digest = _made(text), _digest(text)
    return {table: _judge(_listing(table), table in made, digest) for table in _replaced(text)}


def _judge(listing: str | None, wanted: bool, digest: str) -> tuple[str, str]:
    if listing is None:
        return ("missing" if wanted else "", "")
    if not wanted:
        return ("not needed", "")
    stamps = _STAMP_CHAIN.findall(listing)
    if len(stamps) != 1:
        return ("not finished", "")
    applied, listed = stamps[0].split("_")
    if listed != _digest(_STAMP_CHAIN.sub("", listing)):
        return ("changed by somebody else", "")
    return ("" if applied == digest else "out of date", applied)
