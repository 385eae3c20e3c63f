"""The installer's report in the agent's run directory: what keeps the plugin from being used on this node."""

from __future__ import annotations

from pathlib import Path

from ..manifests.model import Problem
from . import conflist_text

NAME = Path("cni") / "report.json"
"""In the run directory. The directory is the installer's own, so that a container of it needs to see no more."""
MAX_REPORT_BYTES = 1 << 16


def read(run_dir: Path) -> tuple[Problem, ...]:
    """Return the problems of the last report; none if there is no report that can be read."""
    try:
        with (run_dir / NAME).open(encoding="utf-8") as file:
            return conflist_text.read_report(file.read(MAX_REPORT_BYTES))
    except (OSError, ValueError):
        return ()
