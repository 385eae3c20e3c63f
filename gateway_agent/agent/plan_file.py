"""The plan in the run directory, which the plugin follows while the agent does not run, and the mark of an old plan.

The agent may die between an edit and the plan with that edit. The plan on disk is then older than the known objects,
and by it a pod that the edit selects would start untagged. So the mark is set before an edit counts, and removed when
the plan of the newest known objects is on disk: without the agent, the plugin starts no pod by a marked plan.
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
        """Return the plan of an earlier process; None if there is no readable one."""
        with contextlib.suppress(OSError, ValueError):
            return plans.loads(self._plan.read_text(encoding="utf-8"))
        return None

    def write(self, plan: Plan) -> None:
        """Replace the plan atomically, mode 0600; on a full disk the old file stays. The mark is not changed."""
        replace_file(self._plan, plans.dumps(plan).encode(), 0o600, sync=False)

    def mark_outdated(self) -> None:
        """Mark the plan as older than the known objects. The mark is an empty file, which fits on a full disk."""
        os.close(os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def mark_current(self) -> None:
        """Remove the mark."""
        self._mark.unlink(missing_ok=True)
