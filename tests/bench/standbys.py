"""Which standbys have rested: so that a bench need not wait for the one that it has just struck."""

from __future__ import annotations

import time

from ..lab.lab import Lab
from ..lab.waiting import until
from .failures import Failure
from .virtual import egress_nodes

WARM_UP_S = 2.2
"""Seconds after which a node that is ready ranks as before: its warm-up takes two."""
ENOUGH = 1
"""Number of standbys that must have rested before the next failure; the others rank behind them."""
SILENT_VOTER_S = 0.3
"""Seconds after which a node that is ready votes again: a voter that has just started is silent for one lease. All
nodes do: with one of three voters away the loss of another one would be a second failure.
"""


class Standbys:
    """Of one gateway in one lab; looked at between the runs."""

    def __init__(self, lab: Lab, gateway: str) -> None:
        self._lab = lab
        self._gateway = gateway
        self._ready_since: dict[str, float] = {}

    def struck(self, failure: Failure, node: str) -> None:
        """Note that a standby was struck: its time of rest starts again."""
        if failure.at_all:
            self._ready_since.clear()
        self._ready_since.pop(node, None)

    def wait(self) -> str:
        """Return the master when enough others stand ready.

        Raises :class:`tests.lab.waiting.NotInTime` where they do not within 40 s.
        """
        return until(self._settled, f"one master of {self._gateway}, enough standbys", 40)

    def _settled(self) -> str:
        master = self._lab.master(self._gateway, asked="w1")
        if not master or self._lab.master(self._gateway, asked=master) != master:
            return ""
        members = self._lab.nodes[master].agent.status()["members"]
        ready = {row["node"] for row in members if row["ready"] and row["alive"]} & set(
            egress_nodes(self._lab)
        )
        now = time.monotonic()
        self._ready_since = {
            node: self._ready_since.get(node, now) for node in ready - {master} if self._runs(node)
        }
        for_so_long = [now - since for since in self._ready_since.values()]
        all_vote = sum(each > SILENT_VOTER_S for each in for_so_long) == len(egress_nodes(self._lab)) - 1
        return master if all_vote and sum(each > WARM_UP_S for each in for_so_long) >= ENOUGH else ""

    def _runs(self, node: str) -> bool:
        """Return the next failure may be one of the agent."""
        agent = self._lab.nodes[node].agent
        try:
            return agent.running and agent.answers()
        except OSError:
            return False
