"""What operators may ask this node to do: drain, undrain, handover; and what only its lease keeper knows: key."""

from __future__ import annotations

from typing import Any

from cni.plan import PlanEgressIP

from ..show import key_rotation
from ..show.status import NotKnown
from .service import Agent


class Control:
    """One for each agent; holds no state of its own. All raise :class:`NotKnown` where it cannot be done."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def drain(self, _: dict[str, Any]) -> dict[str, Any]:
        """Hands over all that this node is master of. ``left``: what no other node has taken."""
        leases, node = self._agent.leases, self._agent.config.node_name
        before = leases.held_by(node)
        left = await leases.drain(node)
        moved = [self._shown(identity) for identity in before if identity not in left]
        return {
            "node": node,
            "drained": True,
            "moved": moved,
            "left": [self._shown(identity) for identity in left],
        }

    async def undrain(self, _: dict[str, Any]) -> dict[str, Any]:
        self._agent.leases.undrain()
        return {"node": self._agent.config.node_name, "drained": False}

    async def key(self, _: dict[str, Any]) -> dict[str, Any]:
        """By which keys this node and the others talk. See :func:`gateway_agent.show.key_rotation.shown`."""
        try:
            own = await self._agent.leases.keys()
        except (OSError, ValueError) as error:
            raise NotKnown(
                "the lease keeper does not say which keys are in use", "see egressctl status"
            ) from error
        if own is None:
            raise NotKnown(
                "the lease keeper is of an older version", "it is replaced when the service is restarted"
            )
        plan, node = self._agent.plan, self._agent.config.node_name
        nodes = plan.nodes if plan else ()
        return key_rotation.shown(node, {n.name: n.address for n in nodes if n.name != node}, own)

    async def handover(self, question: dict[str, Any]) -> dict[str, Any]:
        """``gateway``, ``ip`` (may be empty) and ``to`` in the question."""
        to = str(question.get("to") or "")
        egress = self._chosen(str(question.get("gateway") or ""), str(question.get("ip") or ""))
        if to not in egress.eligible:
            raise NotKnown(
                f"{to!r} cannot serve gateway {egress.gateway}", f"one of {', '.join(egress.eligible)}"
            )
        before = self._shown(egress.id)["master"]
        if before != to:
            await self._agent.leases.hand_over(egress.id, to)
        return {**self._shown(egress.id), "before": before}

    def _chosen(self, gateway: str, ip: str) -> PlanEgressIP:
        plan = self._agent.plan
        having = [egress for egress in plan.egress_ips if egress.gateway == gateway] if plan else []
        if not having:
            names = sorted({egress.gateway for egress in plan.egress_ips}) if plan else []
            raise NotKnown(
                f"no gateway {gateway!r}", f"one of {', '.join(names) or 'none: the store has no gateway'}"
            )
        chosen = [egress for egress in having if not ip or ip == egress.address]
        addresses = ", ".join(egress.address for egress in having)
        if not chosen:
            raise NotKnown(f"gateway {gateway} has no address {ip}", f"one of {addresses}")
        if len(chosen) > 1:
            raise NotKnown(f"gateway {gateway} has several addresses", f"--ip one of {addresses}")
        return chosen[0]

    def _shown(self, identity: str) -> dict[str, Any]:
        plan, state = self._agent.plan, self._agent.leases.of(identity)
        egress = next((e for e in plan.egress_ips if e.id == identity), None) if plan else None
        changes = self._agent.leases.state.changes if self._agent.leases.state else ()
        last = next((change for change in reversed(changes) if change.id == identity), None)
        return {
            "gateway": egress.gateway if egress else identity,
            "ip": egress.address if egress else "",
            "master": state.master if state else "",
            "epoch": state.epoch if state else 0,
            "silentMs": last.silent_ms if last else 0,
        }
