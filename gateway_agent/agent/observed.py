"""What an agent lets others see, and an agent that serves it by HTTP."""

from __future__ import annotations

import asyncio
import time

from ..adapters.agent_socket import RequestServer
from ..adapters.kernel import Kernel
from ..adapters.lease_client_ipc import KeeperClient
from ..adapters.metrics_http import MetricsServer
from ..cni_install import plugin_report
from ..config import AgentConfig
from ..manifests.model import Problem
from ..manifests.store import Store
from ..show.metrics import ChangeCount, Observation
from ..show.snapshot import NodeSnapshot
from .service import Agent

POLL_INTERVAL_S = 1.0
"""Seconds between two looks at the keeper's changes of masters, of which it tells the last hundred."""


class ObservedAgent(Agent):
    """``metrics`` serves what :meth:`observe` sees; its problems are the agent's."""

    def __init__(self, config: AgentConfig, store: Store, kernel: Kernel, keeper: KeeperClient,
                 notices: tuple[Problem, ...] = ()) -> None:  # fmt: skip
        super().__init__(config, store, kernel, keeper)
        self._notices = notices
        self.socket: RequestServer | None = None
        """Where CNI calls come in; None before it listens."""
        self.metrics = MetricsServer(
            config.metrics_listen, self.observe, names=(config.node_name, *config.metrics_names)
        )
        self._changes = ChangeCount(time.time())

    async def count_changes(self) -> None:
        """Counts changes of masters, asked or not. Ends with its task."""
        while True:
            self._changes.hear(self.keeper_state)
            await asyncio.sleep(POLL_INTERVAL_S)

    def all_problems(self) -> tuple[Problem, ...]:
        unused = plugin_report.read(self.config.run_dir)
        return (*super().all_problems(), *self.metrics.problems, *unused, *self._notices)

    def observe(self) -> Observation:
        """As it stands now."""
        self._changes.hear(self.keeper_state)
        unready = self.trouble or ("" if self.applied is not None else "the agent is starting")
        if not unready and self.socket is not None and not self.socket.reachable():
            unready = f"{self.socket.path} is gone: no CNI call reaches the agent"
        if not unready and (unusable := plugin_report.read(self.config.run_dir)):
            unready = f"the plugin is not used: {unusable[0]}"
        if self.leases.stopping:
            unready = "the agent is stopping"
        return Observation(
            self.config.node_name,
            view(self),
            unready,
            self.leases.drained,
            self._changes.totals(),
            self._changes.silences(),
        )


def view(agent: Agent) -> NodeSnapshot | None:
    """What an agent knows, to be shown; None before it has a plan."""
    plan = agent.applied or agent.plan
    if plan is None or agent.inventory is None:
        return None
    return NodeSnapshot(
        plan=plan,
        inventory=agent.known(agent.inventory),
        attachments=tuple(agent.pods.records.values()),
        keeper=agent.keeper_state,
        cluster_cidrs=agent.config.cluster_cidrs,
        problems=agent.all_problems(),
        settled=agent.leases.settled,
        beside={found.pod: found for found in agent.containers.beside},
    )
