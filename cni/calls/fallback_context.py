"""The plan and its age, as the plugin knows them without the agent, and the tag of a pod by that plan.

The plugin decides nothing beyond the plan. The plan may be older than the objects that the agent knew, or of an older
version of the agent: then a pod that a policy may select does not start.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import contract
from .. import plan as plans
from ..plan import Plan, PodIdentity
from .cni_request import CallError

OUTDATED = "the plan is older than the objects that the agent knew"
OLDER = "an older agent wrote the plan, which gives no complete ruleset"


@dataclass(frozen=True)
class FallbackContext:
    """All that the plugin knows without the agent."""

    run_dir: Path
    """The directory of the plan and of the attachment records."""
    plan: Plan | None
    """The plan that the agent wrote last; None: there is no readable plan."""
    trouble: str
    """The reason why the agent does not answer, and the fault of the plan."""
    stamp: tuple[int, int] = (0, 0)
    """Inode and modification time (ns) of the plan's file, when it was read."""

    def outdated(self) -> bool:
        """Return True if an agent knows newer objects than this plan has, or has written another plan."""
        return (self.run_dir / contract.PLAN_OUTDATED).exists() or self.stamp != stamp_of(
            self.run_dir / contract.PLAN
        )

    def not_known(self, what: str) -> CallError:
        """Return the error for a call for which the plan is not sufficient: the runtime tries again later."""
        hint = f"{self.trouble}; start egress-gateway-agent, or see why it does not answer"
        return CallError(contract.TRY_AGAIN_LATER, what, hint)


def group_of(pod: PodIdentity, subject: str, context: FallbackContext) -> int:
    """Return the interface group that the plan gives the pod; 0: no policy selects the pod.

    ``subject``: the pod's name in messages. Raises :class:`CallError` if the plan gives none.
    """
    plan = context.plan
    if plan is None:
        raise context.not_known(f"there is neither an agent nor a plan: a policy may select {subject}")
    if plan.hangs_on_namespace(pod):
        what = f"a policy may select {subject} by labels of namespace {pod.namespace}, which is newer than the plan"
        raise context.not_known(what)
    policies = plan.policies_for(pod)
    if policies is None:
        raise context.not_known(f"a policy may select {subject}, whose labels are not known")
    if not policies:
        return 0
    if plan.version not in plans.COMPLETE:
        raise context.not_known(f"{OLDER}: {', '.join(policies)} selects {subject}")
    policy_set = plan.set_for(pod, policies)
    if policy_set is None:
        raise context.not_known(f"the plan has no tag yet for pods of {', '.join(policies)}")
    return policy_set.group


def read_plan(path: Path) -> tuple[Plan | None, str]:
    """Return the plan, or None and the fault of the file."""
    try:
        return plans.loads(path.read_text(encoding="utf-8")), ""
    except FileNotFoundError:
        return None, f"{path} does not exist"
    except (OSError, ValueError) as error:
        return None, f"{path}: {error}"


def stamp_of(path: Path) -> tuple[int, int]:
    """Return inode and modification time (ns); zeros if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns
