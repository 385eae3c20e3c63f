"""The systemd units, read: their commands and their rights, for machines without systemd."""

from __future__ import annotations

import shlex
from pathlib import Path

from .namespace import REPOSITORY

UNITS = REPOSITORY / "packaging" / "systemd"
INSTALLED = "/opt/egress-gateway/current"
"""Directory of the environment that the units name."""


class Unit:
    """One unit file."""

    def __init__(self, name: str) -> None:
        self.name = f"egress-gateway-{name}.service"
        lines = (UNITS / self.name).read_text().splitlines()
        self._settings = [line.partition("=")[::2] for line in lines if "=" in line and line[:1] != "#"]

    def values(self, key: str) -> list[str]:
        """Return the values of a setting, in order."""
        return [value for name, value in self._settings if name == key]

    @property
    def capabilities(self) -> set[str]:
        """Return the names of the bounding set, as ``CAP_NET_ADMIN``."""
        return {name for value in self.values("CapabilityBoundingSet") for name in value.split()}

    def command(self, without: str = "") -> tuple[str, ...]:
        """Return the unit's command with exactly its capabilities, by the programs of this repository.

        ``without``: a capability to leave out.
        """
        [line] = self.values("ExecStart")
        program, *arguments = shlex.split(line)
        here = Path(program.replace(INSTALLED, str(REPOSITORY / ".venv")))
        return (*limited(self.capabilities - {without}), str(here), *arguments)


def limited(capabilities: set[str]) -> tuple[str, ...]:
    """Return what starts a program with no other capabilities, and without new privileges."""
    names = ",".join(("-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in sorted(capabilities))))
    return ("setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={names}")
