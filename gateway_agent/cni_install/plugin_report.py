"""Read the installer's report in the agent's run directory: the plugin's place in the CNI configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..manifests.model import Fault, Problem
from . import conflist_text
from .conflist_text import Report

NAME = Path("cni") / "report.json"
"""Path in the run directory. A separate directory, so that the installer's container needs no other mount."""
MAX_REPORT_BYTES = 1 << 16


def read(run_dir: Path) -> Report:
    """Return the last report; an empty one if there is no readable report."""
    try:
        with (run_dir / NAME).open(encoding="utf-8") as file:
            return conflist_text.read_report(file.read(MAX_REPORT_BYTES))
    except (OSError, ValueError):
        return Report()


def problems(run_dir: Path) -> tuple[Problem, ...]:
    """Return the problems that keep the plugin from being used, by the last report."""
    return tuple(replace(problem, kind=Fault.PLUGIN) for problem in read(run_dir).problems)
