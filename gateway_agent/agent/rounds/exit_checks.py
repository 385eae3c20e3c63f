"""Check that packets leave by the egress interfaces: by probes of upstream addresses, and by route look-ups."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from cni.plan import Plan, PlanEgressIP

from ...manifests.model import Inventory, Policy, Problem
from ...policy.egress_node import exit_paths
from ...policy.egress_node.exit_paths import Found, Lookup
from ..ports import Interfaces, Probe, ProbeTarget, Threads
from ..state import NodeState

MAX_LOOKUPS_EACH_ROUND = 500
"""Number of look-ups above which answered ones are repeated only every :data:`REFRESH_S` seconds, because of their
cost.
"""
REFRESH_S = 30.0


class ExitChecks:
    """Probes and look-ups for all egress IPs that this node can serve.

    ``make``: see :attr:`gateway_agent.agent.ports.Ports.probe`. ``upstream``: addresses that must answer.
    """

    def __init__(
        self,
        state: NodeState,
        make: Callable[[ProbeTarget, Callable[[], None]], Probe],
        upstream: tuple[str, ...],
        interfaces: Interfaces,
        threads: Threads,
    ) -> None:
        self._state = state
        self._make = make
        self._upstream = upstream
        self._interfaces = interfaces
        self._threads = threads
        self._running: dict[ProbeTarget, tuple[Probe, asyncio.Task[None]]] = {}
        self._asked: dict[str, Mapping[Lookup, str]] = {}
        """Lookups of the kernel's routes by id of the egress IP."""
        self._wanted: frozenset[Lookup] = frozenset()
        self._made_of: tuple[Plan, tuple[Policy, ...], tuple[str, ...]] | None = None
        """Plan, policies and excluded prefixes from which the look-ups were computed."""
        self._answers: dict[Lookup, Found] = {}
        self._unanswered: frozenset[Lookup] = frozenset()
        """Lookups to which the kernel gave no answer."""
        self._leading: dict[tuple[str, str], Mapping[Lookup, Found]] = {}
        """Answers with a route out by the egress interface, by id and interface of the egress IP."""
        self._reasons: dict[PlanEgressIP, str] = {}
        """Faults of the answers."""
        self._asked_at = -REFRESH_S

    def follow(self, plan: Plan, changed: Callable[[], None]) -> None:
        """Probe for the plan's egress IPs only. ``changed``: called if an address falls silent or answers again."""
        wanted = {each for egress in plan.egress_ips for each in self._targets(plan, egress)}
        for gone in self._running.keys() - wanted:
            self._running.pop(gone)[1].cancel()
        for new in wanted - self._running.keys():
            probe = self._make(new, changed)
            self._running[new] = probe, asyncio.create_task(probe.run())

    async def check_by_mark(self, plan: Plan) -> bool:
        """Let replies to gateways with their own routing pass the source check. Return True if a setting changed.

        This is also done while the check is off, because another program may turn it on at any time. Raises OSError:
        see :meth:`gateway_agent.agent.ports.Interfaces.check_by_mark`.
        """
        routed = {e.interface for e in plan.egress_ips if e.routed and e.family == 4}
        return await self._threads.run(self._interfaces.check_by_mark, routed)

    async def look_up(self, plan: Plan, inventory: Inventory, never: Collection[str]) -> bool:
        """Look up where packets out of the tunnels would leave. Return True if an answer has changed.

        ``never``: prefixes that are steered to no gateway. If there are many look-ups, a round does only new ones.
        """
        changed = self._prepare(plan, inventory, never)
        now = asyncio.get_running_loop().time()
        before = self._answers
        if len(self._wanted) <= MAX_LOOKUPS_EACH_ROUND or now >= self._asked_at + REFRESH_S:
            self._asked_at, new, known = now, self._wanted, dict[Lookup, Found]()
        elif changed:
            new = self._wanted - before.keys()
            known = {each: before[each] for each in self._wanted - new}
        elif not self._unanswered:
            return False
        else:
            new, known = self._unanswered, before
        answers = await self._threads.run(self._interfaces.look_up, sorted(new)) if new else {}
        self._answers = {**known, **answers}
        self._unanswered = self._wanted - self._answers.keys()
        differs = self._answers != before
        if changed or differs:
            self._forget()
        return differs

    def _prepare(self, plan: Plan, inventory: Inventory, never: Collection[str]) -> bool:
        """Compute the look-ups. Return False if their inputs are the same as before, as they are at rest."""
        made_of = plan, inventory.policies, tuple(never)
        last = self._made_of
        if last and last[0] is plan and last[1] is inventory.policies and last[2] == made_of[2]:
            return False
        policies: dict[str, list[Policy]] = {}
        for policy in inventory.policies:
            policies.setdefault(policy.gateway, []).append(policy)
        self._asked = {
            egress.id: exit_paths.lookups(plan, egress, policies.get(egress.gateway, ()), never)
            for egress in plan.egress_ips
            if egress.interface and plan.node in egress.eligible
        }
        self._wanted = frozenset(lookup for each in self._asked.values() for lookup in each)
        self._made_of = made_of
        self._forget()
        return True

    def _forget(self) -> None:
        """Clear results of look-ups and answers after a change of either."""
        self._leading.clear()
        self._reasons.clear()

    async def ask(self, plan: Plan, destination: str) -> dict[str, Found]:
        """Return the routes of packets to an address, for each egress IP of its family that this node serves.

        A ``destination`` that is no address has no answer.
        """
        try:
            family = ipaddress.ip_address(destination).version
        except ValueError:
            return {}
        served = [e for e in plan.egress_ips if plan.serves(e) and e.interface and e.family == family]
        asked = {e.id: next(iter(exit_paths.lookups_to(plan, e, [destination])), None) for e in served}
        lookups = sorted(each for each in asked.values() if each)
        answers = await self._threads.run(self._interfaces.look_up, lookups)
        return {identity: answers[each] for identity, each in asked.items() if each in answers}

    def silent_upstream(self, plan: Plan, egress: PlanEgressIP) -> tuple[str, ...]:
        """Return the upstream addresses that do not answer."""
        return self._silent(self._upstream_target(plan, egress))

    def silent_hops(self, plan: Plan, egress: PlanEgressIP) -> tuple[str, ...]:
        """Return the gateway's own next hop if it does not answer."""
        return self._silent(self._hop_target(egress))

    def problems(self) -> tuple[Problem, ...]:
        """Return the problems of upstream addresses that answer this node, but not its virtual address.

        It causes no handover: each node would find the same as soon as it has the address.
        """
        if (plan := self._state.plan) is None:
            return ()
        found = []
        for egress in plan.egress_ips:
            silent = self._silent(self._shown_target(plan, egress))
            if silent and not self.silent_upstream(plan, egress):
                message = f"upstream {', '.join(silent)} answers this node, but not {egress.address}"
                hint = f"is {egress.address} routed to the network of {egress.interface}, and allowed there?"
                found.append(Problem("health", "", message, hint))
        return tuple(found)

    def path(self, egress: PlanEgressIP) -> str:
        """Return why packets would not leave by the egress interface; empty if they would, or if that is unknown."""
        if egress not in self._reasons:
            asked = self._asked.get(egress.id, {})
            self._reasons[egress] = exit_paths.reason(egress, asked, self._answers)
        return self._reasons[egress]

    def leading_out(self, egress: PlanEgressIP) -> Mapping[Lookup, Found]:
        """Return the packets that the kernel would route out by the egress interface, with their routes.

        The result is the same object as before if neither look-ups nor answers have changed.
        """
        key = egress.id, egress.interface
        if key not in self._leading:
            asked = self._asked.get(egress.id, {})
            found = ((lookup, self._answers.get(lookup)) for lookup in asked)
            self._leading[key] = {
                lookup: answer for lookup, answer in found if answer and answer.interface == egress.interface
            }
        return self._leading[key]

    def _silent(self, target: ProbeTarget | None) -> tuple[str, ...]:
        running = self._running.get(target) if target else None
        return running[0].silent if running else ()

    def _targets(self, plan: Plan, egress: PlanEgressIP) -> list[ProbeTarget]:
        targets = (
            self._upstream_target(plan, egress), self._shown_target(plan, egress), self._hop_target(egress)
        )  # fmt: skip
        return [target for target in targets if target]

    def _upstream_target(self, plan: Plan, egress: PlanEgressIP) -> ProbeTarget | None:
        """Return the probe of the upstream addresses, routed like packets of pods.

        A node that is not the master lacks the virtual address, so the source is the node's own address.
        """
        addresses = self._upstream_of(egress)
        if not egress.interface or not addresses:
            return None
        mark = plan.layout.leaving(egress.slot) if egress.routed else 0
        return ProbeTarget(egress.interface, addresses, mark, "" if egress.address else egress.source)

    def _shown_target(self, plan: Plan, egress: PlanEgressIP) -> ProbeTarget | None:
        """Return the same probe with the virtual address as source, if this node is its master."""
        target = self._upstream_target(plan, egress)
        if not target or not egress.address or not plan.serves(egress):
            return None
        of_family = _of_family(target.addresses, egress.family)
        return replace(target, addresses=of_family, source=egress.address) if of_family else None

    def _upstream_of(self, egress: PlanEgressIP) -> tuple[str, ...]:
        """Return the upstream addresses of the egress IP's family, or all if there are none of it."""
        return _of_family(self._upstream, egress.family) or self._upstream

    def _hop_target(self, egress: PlanEgressIP) -> ProbeTarget | None:
        if not egress.interface or not egress.next_hop:
            return None
        return ProbeTarget(egress.interface, (egress.next_hop,), on_link=True)


def _of_family(addresses: tuple[str, ...], family: int) -> tuple[str, ...]:
    return tuple(each for each in addresses if (":" in each) == (family == 6))
