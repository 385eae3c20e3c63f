"""Sysctls of interfaces that are not ours, turned on while a gateway needs them and put back afterwards.

What was changed is written down before it is changed: a process that dies in between leaves a record of a setting that
is perhaps still off, and putting it back changes nothing then.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from pathlib import Path

from cni.kernel.sysctl import PROC_SYS_NET

from ..atomic_file import replace_file

RECORD = "borrowed-settings.json"
NAME = "src_valid_mark"
"""The source of a packet is checked by the route that its mark has (ip-sysctl of the kernel)."""


class BorrowedSettings:
    """``run_dir`` has the record: names of interfaces on which ``src_valid_mark`` was off."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / RECORD
        self._changed = self._read()

    def follow(self, wanted: Collection[str]) -> bool:
        """Turn the setting on for these interfaces and put it back for all others. Return True if anything was changed.

        An interface that is gone took its settings along. Raises OSError if the record cannot be written.
        """
        off = {name for name in wanted if _value(name) == "0"}
        gone = self._changed - set(wanted)
        self._record(self._changed | off)
        for name in off:
            _set(name, "1")
        for name in gone:
            _set(name, "0")
        self._record((self._changed | off) - gone)
        return bool(off or gone)

    def _read(self) -> set[str]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return set()
        return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()

    def _record(self, names: set[str]) -> None:
        if names == self._changed:
            return
        if names:
            replace_file(self._path, (json.dumps(sorted(names)) + "\n").encode(), 0o600)
        else:
            self._path.unlink(missing_ok=True)
        self._changed = names


def _file(interface: str) -> Path:
    return PROC_SYS_NET / "ipv4" / "conf" / interface / NAME


def _value(interface: str) -> str:
    with contextlib.suppress(OSError):
        return _file(interface).read_text(encoding="ascii").strip()
    return ""


def _set(interface: str, value: str) -> None:
    # What cannot be set shows in the facts of the interface, and in status.
    with contextlib.suppress(OSError):
        _file(interface).write_text(value, encoding="ascii")
