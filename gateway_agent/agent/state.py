"""The facts that the parts of one agent share. Each fact has one writer, which its text names; a test checks that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from cni.kernel.errors import KernelError
from cni.plan import Plan

from ..manifests.model import Inventory, Problem
from ..policy.egress_node.readiness import InterfaceFacts


@dataclass
class NodeState:
    """The knowledge of the agent, and the settings in force on this node. All parts run in one event loop."""

    inventory: Inventory | None = None
    """The newest objects from the store; None before the first read. Writer: ``objects``."""
    facts: Mapping[str, InterfaceFacts] = field(default_factory=dict)
    """The interfaces of the node by name, without those of pods. Writer: ``planning``."""
    plan: Plan | None = None
    """The desired state of the kernel; also in ``plan.json``. Writer: ``round_steps``."""
    plan_problems: tuple[Problem, ...] = ()
    """Problems found during planning. Writer: ``round_steps``."""
    applied: Plan | None = None
    """The plan that the kernel was last reconciled with; None before the first time. Writer: ``node_kernel``."""
    kernel_in_doubt: bool = True
    """True if the kernel may differ from ``applied``, by another program or a failure. Writer: ``node_kernel``."""
    refused: Mapping[str, KernelError] = field(default_factory=dict)
    """Refusals of the kernel, by the id of the egress IP that lacks the refused object. Writer: ``node_kernel``."""
    followed: Inventory | None = None
    """The objects of the last round that completed all steps. Writer: ``reconciler``."""
    trouble: str = ""
    """The reason why the last round failed; empty if it did not. Writer: ``reconciler``."""

    applied_at: float = 0.0
    """Time of the last round that did not fail, Unix time; 0: there was none. Writer: ``reconciler``."""
    rounds_failed: int = 0
    """Rounds that failed since the agent started. Writer: ``reconciler``."""

    guard_since: float = math.inf
    """The moment since which the guard of unknown pods is set without a gap, by the event loop's clock, seconds;
    infinite: it is not set. Writer: ``pod_guard``.
    """

    def egress_name(self, identity: str) -> str:
        """Return gateway and address of an egress IP for the log; its id if the plan does not have it."""
        for egress in self.plan.egress_ips if self.plan else ():
            if egress.id == identity:
                return f"{egress.gateway} {egress.address}".strip()
        return identity
