"""Implement ``egressctl guard``: set the guard of unknown pods before the first pod starts, without an agent."""

from __future__ import annotations

from collections.abc import Iterator

from cni.kernel import ids
from cni.kernel.netlink import links
from cni.kernel.nftables import nft

from ..adapters.kernel import interfaces
from ..agent.plan_file import PlanFile
from ..config import AgentConfig
from ..gateway_rules.pod_guard import FAMILIES, guard_nft, no_guard
from ..guard_file import GuardFile
from ..manifests.model import Inventory
from ..policy import planner
from .client import NoAnswer


def guard(config: AgentConfig) -> Iterator[str]:
    """Set the guard, or remove it if the configuration turns it off. Yield a text for each change.

    The rules are those of the agent's last run. Without them only ``clusterCIDRs`` counts as inside the cluster. Raises
    :class:`NoAnswer`, OSError and :class:`~cni.kernel.errors.KernelError`.
    """
    file = GuardFile(config.state_dir)
    if not config.guard:
        yield from nft.ensure(no_guard())
        if file.remove():
            yield f"removed {file.path}"
        return
    text = file.read()
    if not text:
        _refuse_if_pods_run()
        text = _first_rules(config)
        file.write(text)
        yield f"wrote {file.path}"
    yield from nft.ensure(text)


def _refuse_if_pods_run() -> None:
    tables = nft.run("list", "tables").splitlines()
    if any(f"table {family} {ids.NFT_GUARD}" in tables for family in FAMILIES):
        return
    if found := links.unjudged():
        message = f"pods may run here already: no program here knows {', '.join(found)}"
        raise NoAnswer(message, "start the agent: it registers them, and then sets the guard")


def _first_rules(config: AgentConfig) -> str:
    plan = PlanFile(config.run_dir).read()
    facts = interfaces.read(())
    uplinks = {name for name, known in facts.items() if known.default_route or known.uplink}
    inside = planner.never_sent(Inventory(), config.cluster_cidrs)
    return guard_nft(inside, (*uplinks, *(plan.uplinks if plan else ()), *config.guard_except))
