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

from .errors import KernelError

TIMEOUT = 20.0
"""Seconds that one run of ``nft`` may take: a table of 100,000 prefixes takes about one."""
STAMP = "stamp"
_STAMP_CHAIN = re.compile(r"\n?\tchain " + STAMP + r"_(\w+) \{\n\t\}\n")


def ensure(text: str) -> tuple[str, ...]:
    """Applies ``text`` where one of its tables is not as the text makes it. Says which, and why.

    ``text`` is one transaction; each of its tables is removed by a line ``delete table FAMILY NAME`` and, where
    it should stand, made by one ``table FAMILY NAME {``. Raises :class:`KernelError`.
    """
    wrong = missing(text)
    if wrong:
        apply(text)
    return tuple(f"replaced {problem}" for problem in wrong)


def missing(text: str) -> tuple[str, ...]:
    """Which tables are not as ``text`` makes them, and why. Changes nothing."""
    problems = ((table, _problem(table, table in _made(text), _digest(text))) for table in _replaced(text))
    return tuple(f"nftables table {table}: {problem}" for table, problem in problems if problem)


def apply(text: str) -> None:
    """Runs the transaction and stamps its tables."""
    run("-f", "-", text=text)
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


def _problem(table: str, wanted: bool, digest: str) -> str:
    listing = _listing(table)
    if listing is None:
        return "missing" if wanted else ""
    if not wanted:
        return "not needed"
    stamps = _STAMP_CHAIN.findall(listing)
    if len(stamps) != 1:
        return "not finished"
    applied, listed = stamps[0].split("_")
    if applied != digest:
        return "out of date"
    return "" if listed == _digest(_STAMP_CHAIN.sub("", listing)) else "changed by somebody else"
