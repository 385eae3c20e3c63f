"""Plan objects as the agents of their nodes would, without a kernel, and collect the problems.

A plan depends on its node by the egress IPs that the node can serve and by the pods on it. So whole plans are made for
a few nodes that together can serve all egress IPs, and for a worker. For each other node only the pods are checked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from cni.plan import Plan, PodIdentity, matches

from ...adapters.kernel.kernel_thread import texts
from ...agent.rounds import planning
from ...config import AgentConfig
from ...manifests.model import Inventory, Problem
from ...policy import egress_ips, numbers, planner, policy_sets, underlay
from ...policy.quarantine import Quarantine

PodName = tuple[str, str]
"""Namespace and name of a pod."""
MTU = 1450
"""MTU, bytes, of the tunnel devices in rules that are only rendered."""


@dataclass(frozen=True)
class Trial:
    """The objects, and the node of each pod."""

    inventory: Inventory
    config: AgentConfig
    bound: Mapping[PodName, str]
    """Nodes of pods without ``hostNetwork``. A pod that is missing here, or whose node is empty, may be on every node.
    """
    here: str = ""
    """Name of the node that the configuration is for; empty if it is not known."""

    def problems(self) -> tuple[Problem, ...]:
        """Return the problems that agents would find in planning, each once. No object makes it raise."""
        try:
            return tuple(dict.fromkeys(self._found()))
        except Exception as error:
            message = f"these objects cannot be planned: {type(error).__name__}: {error}"
            return (Problem("plan", "", message, "please report this with the objects"),)

    def _found(self) -> Iterator[Problem]:
        quarantine = Quarantine()
        first = self.here or next((node.name for node in self.inventory.nodes), self.config.node_name)
        planned = quarantine.search(self.inventory, partial(self._attempt, first))
        usable = quarantine.without_found(self.inventory)
        done = {first}
        yield from self._of_objects(planned, first)
        for name in _serving(usable, first):
            done.add(name)
            yield from self._of_objects(quarantine.search(usable, partial(self._attempt, name)), name)
        yield from self._of_pods(planned.plan, usable, done)

    def _of_objects(self, planned: planner.Planned, here: str) -> Iterator[Problem]:
        """Yield the problems of a plan, without those of the missing nodes if there are no nodes at all.

        In a cluster the nodes are not among the manifests.
        """
        without = not self.inventory.nodes
        for problem in planned.problems:
            if not (without and (problem.path == egress_ips.SELECTOR or problem.source == f"node {here}")):
                yield problem

    def _of_pods(self, plan: Plan, inventory: Inventory, done: Iterable[str]) -> Iterator[Problem]:
        """Yield the problems that the pods of the nodes that are not ``done`` cause."""
        on_nodes = {*inventory.on_host.values(), *self.bound.values()} - {"", *done}
        pods = self._pods_by_node(inventory)
        for name in sorted(on_nodes):
            found: list[Problem] = []
            needed = policy_sets.needed(plan, (*pods[""], *pods[name]), found)
            numbers.with_slots(plan, None, needed, (), inventory.gateways, found)
            yield from found
            yield from planner.on_host(replace(plan, node=name), inventory)

    def _pods_by_node(self, inventory: Inventory) -> Mapping[str, list[PodIdentity]]:
        pods: dict[str, list[PodIdentity]] = defaultdict(list)
        for pod in inventory.pods:
            if (pod.namespace, pod.name) not in inventory.on_host:
                pods[self.bound.get((pod.namespace, pod.name), "")].append(pod)
        return pods

    def _attempt(self, here: str, inventory: Inventory) -> planner.Planned:
        """Return the plan of the node ``here``, after every later step that changes nothing."""
        settings = planning.settings(replace(self.config, node_name=here), self.config.tunnel_mtu or MTU, {})

        def pods(of: Inventory) -> list[PodIdentity]:
            by_node = self._pods_by_node(of)
            return [*by_node[""], *by_node[here]]

        return planning.in_full(
            lambda _: None,
            lambda of: planner.build(of, settings, {}, {}, pods=pods(of)),
            pods,
            texts,
            lambda _: (),
            inventory,
        )


def _serving(inventory: Inventory, first: str) -> Iterator[str]:
    """Yield nodes that can serve the gateways that ``first`` cannot, and a node that can serve none."""
    placed = {node.name for node in underlay.place(inventory.nodes, [])}
    nodes = [node for node in inventory.nodes if node.name in placed]
    chosen, workers = {first}, set(placed)
    for gateway in inventory.gateways:
        able = [node.name for node in nodes if matches(gateway.node_selector, node.labels)]
        workers.difference_update(able)
        if able and chosen.isdisjoint(able):
            chosen.add(able[0])
            yield able[0]
    if workers and first not in workers:
        yield min(workers)
