"""The plan in the run directory, which the plugin follows while the agent is away, and the mark that it is outdated.

Between an edit and its plan the agent may die. The plan that it leaves then is older than what it knew, and a pod that
the edit selects would start untagged by it. So the mark is there before an edit counts, and goes when the plan of the
newest known objects is on disk: the plugin alone starts no pod by a plan that is marked.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cni import contract
from cni import plan as plans
from cni.files import replace_file
from cni.plan import Plan


class PlanFile:
    """Two files of one run directory. Every method but :meth:`read` raises OSError."""

    def __init__(self, run_dir: Path) -> None:
        self._plan = run_dir / contract.PLAN
        self._mark = run_dir / contract.PLAN_OUTDATED

    def read(self) -> Plan | None:
        """Return the plan that an earlier process has left; None if there is none that can be read."""
        with contextlib.suppress(OSError, ValueError):
            return plans.loads(self._plan.read_text(encoding="utf-8"))
        return None

    def write(self, plan: Plan) -> None:
        """Replace the plan, whole or not at all, mode 0600; a full disk leaves the old file. The mark stays."""
        replace_file(self._plan, plans.dumps(plan).encode(), 0o600, sync=False)

    def mark_outdated(self) -> None:
        """Mark the plan as older than what is known. An empty file needs no room on a full disk."""
        os.close(os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def mark_current(self) -> None:
        """Remove the mark."""
        self._mark.unlink(missing_ok=True)
