"""Store the last rules of the guard, which a systemd unit loads at boot before any pod starts."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cni.files import replace_file

NAME = "guard.nft"
"""Name of the file in the state directory, which outlives a reboot."""


class GuardFile:
    """The file of the rules. All methods except :meth:`read` raise OSError."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / NAME
        self._known: str | None = None

    def read(self) -> str:
        """Return the rules; empty if there are no readable ones."""
        with contextlib.suppress(OSError, ValueError):
            return self.path.read_text(encoding="utf-8")
        return ""

    def write(self, text: str) -> None:
        """Replace the rules if they differ."""
        if text == self._known and self.path.exists():
            return
        if text != self.read():
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_file(self.path, text.encode(), 0o600)
        self._known = text

    def remove(self) -> bool:
        """Remove the rules. Return False if there were none."""
        self._known = None
        # On a read-only file system, removing a missing file is an error, too.
        if not self.path.exists():
            return False
        self.path.unlink(missing_ok=True)
        return True
