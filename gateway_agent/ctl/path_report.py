"""Test the path of pods' packets through this node: interface, route, next hop, rules of all programs, size.

Needs no agent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from cni.plan import Plan, PlanEgressIP

from ..adapters.kernel import interfaces, route_lookup
from ..adapters.probes import answer_counters, neighbour_probe
from ..adapters.probes.path_probe import PathProbe
from ..policy.egress_node import exit_paths, path_faults, readiness
from ..policy.egress_node.exit_paths import Found, Lookup
from ..policy.egress_node.path_faults import Answers
from ..policy.egress_node.readiness import InterfaceFacts

ANSWERS_S = 1.0
"""Seconds for which answers are counted."""
MAX_DESTINATIONS = 16
"""Largest number of destinations that are probed for each egress IP."""


@dataclass(frozen=True)
class PathReport:
    """The path of one egress IP."""

    egress: PlanEgressIP
    fault: str = ""
    """Reason for lost packets; empty: packets get through, or it was not tested."""
    untested: str = ""
    """Reason for which there is nothing to test."""
    bytes: int = 0
    """Size of the largest packet that gets through; 0: not known."""

    @property
    def name(self) -> str:
        """Return gateway and address."""
        return f"{self.egress.gateway} {self.egress.address}".rstrip()


def examine(plan: Plan) -> Iterator[PathReport]:
    """Yield a report for each egress IP that this node can serve. Raises OSError and KernelError."""
    able = [each for each in plan.egress_ips if plan.node in each.eligible and each.interface]
    facts = _facts(plan) if able else {}
    for egress in able:
        asked = _lookups(plan, egress)
        answers = route_lookup.ask(asked)
        fault = _interface_fault(plan, egress, facts) or exit_paths.reason(egress, asked, answers)
        if fault := fault or _silent_hop(egress):
            yield PathReport(egress, fault)
        else:
            yield _report(plan, egress, answers)


def answers() -> Answers:
    """Return the numbers of answers that come while this call takes its time, by the counters of our rules.

    Only a difference can be judged: the two counters are in tables that are made at different times. Both are 0 if a
    table was made anew meanwhile. Raises KernelError.
    """
    before = answer_counters.read()
    time.sleep(ANSWERS_S)
    return answer_counters.read().since(before) or Answers(0, 0)


def _lookups(plan: Plan, egress: PlanEgressIP) -> Mapping[Lookup, str]:
    prefixes = dict.fromkeys(
        destination.prefix
        for each in plan.policy_sets
        for destination in each.destinations
        if destination.egress_id == egress.id
    )
    return exit_paths.lookups_to(plan, egress, islice(prefixes, MAX_DESTINATIONS))


def _facts(plan: Plan) -> Mapping[str, InterfaceFacts]:
    virtual = {egress.address for egress in plan.egress_ips if egress.address}
    return interfaces.read(virtual, (), [node.address for node in plan.nodes if node.name != plan.node])


def _interface_fault(plan: Plan, egress: PlanEgressIP, facts: Mapping[str, InterfaceFacts]) -> str:
    """Return the fault of the egress interface or its settings, by the same rules as the agent's."""
    underlay = 6 if plan.me and ":" in plan.me.address else 4
    return readiness.interface_fault(egress, egress.interface, facts, underlay)


def _silent_hop(egress: PlanEgressIP) -> str:
    """Return the reason if the gateway's own next hop does not answer; empty if it does, or if there is none."""
    if not egress.next_hop:
        return ""
    return readiness.silent_hop(
        egress.interface, neighbour_probe.silent(egress.interface, (egress.next_hop,))
    )


def _report(plan: Plan, egress: PlanEgressIP, answers: Mapping[Lookup, Found]) -> PathReport:
    leading = {each: found for each, found in answers.items() if found.interface == egress.interface}
    if plan.isolated or plan.me is None:
        return PathReport(
            egress, untested="this node has no contact with a majority of the voters, and opens no connection"
        )
    if all(node.name == plan.node for node in plan.nodes):
        return PathReport(egress, untested="this node is the only one, and no packets come by its tunnels")
    probes = path_faults.probes(plan, egress, leading)
    if not probes:
        return PathReport(egress, untested="no policy steers packets to it")
    probe, address = PathProbe(plan.port), plan.me.address
    passing = probe.passing(address, probes)
    if lost := [each for each in probes if each not in passing]:
        dropped = probe.dropped_by(address, lost[0], egress.device)
        return PathReport(egress, path_faults.reason(egress, lost[0], dropped))
    return PathReport(egress, bytes=probe.largest(address, probes[0], plan.mtu))
