"""Turn on sysctls of interfaces that are not ours while a gateway needs them, and restore them afterwards.

Each change is recorded before it is made: a process that dies in between leaves a record of a setting that may still be
off, and restoring that one changes nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from pathlib import Path

from cni.files import replace_file
from cni.kernel.sysctl import PROC_SYS_NET

RECORD = "borrowed-settings.json"
NAME = "src_valid_mark"
"""Name of the sysctl: the source check of a packet uses the route of its mark (ip-sysctl of the kernel)."""


class BorrowedSettings:
    """The setting ``src_valid_mark`` of interfaces.

    ``run_dir``: has the record with the names of interfaces on which the setting was off. ``sysctls``: the kernel's
    directory of the settings.
    """

    def __init__(self, run_dir: Path, sysctls: Path = PROC_SYS_NET / "ipv4" / "conf") -> None:
        self._path = run_dir / RECORD
        self._sysctls = sysctls
        self._changed = self._read()

    def follow(self, wanted: Collection[str]) -> bool:
        """Turn the setting on for these interfaces and restore it for all others. Return True if one has changed.

        The settings of an interface end with the interface. Raises OSError if the record cannot be written.
        """
        off = {name for name in wanted if self._value(name) == "0"}
        gone = self._changed - set(wanted)
        self._record(self._changed | off)
        # All are tried. A refused one is no change: a caller that waits for a change would wait for ever.
        changed = [self._set(name, "1") for name in off] + [self._set(name, "0") for name in gone]
        self._record((self._changed | off) - gone)
        return any(changed)

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

    def _value(self, interface: str) -> str:
        with contextlib.suppress(OSError):
            return (self._sysctls / interface / NAME).read_text(encoding="ascii").strip()
        return ""

    def _set(self, interface: str, value: str) -> bool:
        """Set the value. Return False if the kernel refuses: status reports that as a fact of the interface."""
        with contextlib.suppress(OSError):
            (self._sysctls / interface / NAME).write_text(value, encoding="ascii")
            return True
        return False
