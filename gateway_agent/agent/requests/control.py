"""Answer ``egressctl``: status of this node, and operations that operators request."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from cni.plan import PlanEgressIP

from ...show import key_rotation, status
from ...show.snapshot import NodeSnapshot
from ...show.status import NotKnown
from ..inputs.lease_client import LeaseClient, NotHandedOver
from ..inputs.push import NotPushed, Pushes
from ..rounds.exit_checks import ExitChecks
from ..state import NodeState
from .group import Group
from .group_tests import GroupTests
from .whois import Whois

log = logging.getLogger(__name__)


class Control:
    """The handler of egressctl's calls. ``snapshot`` returns the state to show; None before there is a plan."""

    def __init__(
        self,
        node: str,
        state: NodeState,
        leases: LeaseClient,
        snapshot: Callable[[], NodeSnapshot | None],
        exits: ExitChecks,
        tests: GroupTests,
        whois: Whois,
        pushes: Pushes,
        group: Group,
    ) -> None:
        self._node = node
        self._state = state
        self._leases = leases
        self._snapshot = snapshot
        self._exits = exits
        self._pushes = pushes
        self._calls: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "status": self._status,
            "group": group.status,
            "pods": self._pods,
            "explain": self._explain,
            "events": self._events,
            "drain": self._drain,
            "undrain": self._undrain,
            "handover": self._handover,
            "key": self._key,
            "test": tests.test,
            "whois": whois.answer,
            "push": self._push,
            "pushed": self._pushed,
        }

    async def answer(self, text: bytes) -> bytes:
        """Return the answer to a question as JSON. Never raises: an exception becomes an error answer."""
        try:
            question = json.loads(text)
            call = self._calls[question.pop("call")]
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
            hint = f"calls: {', '.join(self._calls)}"
            return json.dumps({"error": "not a call that this agent knows", "hint": hint}).encode()
        try:
            answer = await call(question)
        except (NotKnown, NotHandedOver, NotPushed) as error:
            answer = {"error": str(error), "hint": error.hint}
        except Exception as error:
            log.exception("a question of egressctl failed")
            answer = {"error": f"the agent failed: {error!r}", "hint": "see its log"}
        return json.dumps(answer).encode()

    # --- what is shown -----------------------------------------------------------------------------------------

    def _seen(self) -> NodeSnapshot:
        seen = self._snapshot()
        if seen is None:
            raise NotKnown("the agent has not read its store yet", "it is starting, or its log says why")
        return seen

    async def _status(self, _: dict[str, Any]) -> Any:
        return status.status(self._seen())

    async def _pods(self, _: dict[str, Any]) -> Any:
        return status.pods(self._seen())

    async def _explain(self, question: dict[str, Any]) -> Any:
        pod, destination = (str(question.get(name) or "") for name in ("pod", "destination"))
        seen = self._seen()
        if destination:
            seen = replace(seen, exits=await self._exits.ask(seen.plan, destination))
        return status.explain(seen, pod, destination)

    async def _events(self, _: dict[str, Any]) -> Any:
        return status.events(self._seen())

    async def _key(self, _: dict[str, Any]) -> dict[str, Any]:
        """Return the keys that this node and the others use; see :func:`gateway_agent.show.key_rotation.shown`."""
        try:
            own = await self._leases.keys()
        except (OSError, ValueError) as error:
            hint = "see egressctl status"
            raise NotKnown("the lease daemon does not say which keys are in use", hint) from error
        if own is None:
            hint = "it is replaced when the service is restarted"
            raise NotKnown("the lease daemon is of an older version", hint)
        plan = self._state.plan
        nodes = plan.nodes if plan else ()
        return key_rotation.shown(self._node, {n.name: n.address for n in nodes if n.name != self._node}, own)

    # --- what is done ------------------------------------------------------------------------------------------

    async def _drain(self, _: dict[str, Any]) -> dict[str, Any]:
        """Hand over all egress IPs of this node. ``left`` in the answer: those that no other node has taken over."""
        before = self._leases.held_by(self._node)
        left = await self._leases.drain(self._node)
        moved = [self._shown(identity) for identity in before if identity not in left]
        return {
            "node": self._node,
            "drained": True,
            "moved": moved,
            "left": [self._shown(identity) for identity in left],
        }

    async def _undrain(self, _: dict[str, Any]) -> dict[str, Any]:
        self._leases.undrain()
        return {"node": self._node, "drained": False}

    async def _handover(self, question: dict[str, Any]) -> dict[str, Any]:
        """Hand over the egress IP of ``gateway`` and ``ip`` (may be empty) to the node ``to``."""
        gateway, ip, to = (str(question.get(name) or "") for name in ("gateway", "ip", "to"))
        egress = self._chosen(gateway, ip)
        if to not in egress.eligible:
            hint = f"one of {', '.join(egress.eligible)}"
            raise NotKnown(f"{to!r} cannot serve gateway {egress.gateway}", hint)
        before = self._shown(egress.id)["master"]
        if before != to:
            await self._leases.hand_over(egress.id, to)
        return {**self._shown(egress.id), "before": before}

    async def _push(self, question: dict[str, Any]) -> dict[str, Any]:
        return self._pushes.begin(question)

    async def _pushed(self, question: dict[str, Any]) -> dict[str, Any]:
        return self._pushes.state(question)

    def _chosen(self, gateway: str, ip: str) -> PlanEgressIP:
        plan = self._state.plan
        having = [egress for egress in plan.egress_ips if egress.gateway == gateway] if plan else []
        if not having:
            names = sorted({egress.gateway for egress in plan.egress_ips}) if plan else []
            known = ", ".join(names) or "none: the store has no gateway"
            raise NotKnown(f"no gateway {gateway!r}", f"one of {known}")
        chosen = [egress for egress in having if not ip or ip == egress.address]
        addresses = ", ".join(egress.address for egress in having)
        if not chosen:
            raise NotKnown(f"gateway {gateway} has no address {ip}", f"one of {addresses}")
        if len(chosen) > 1:
            raise NotKnown(f"gateway {gateway} has several addresses", f"--ip one of {addresses}")
        return chosen[0]

    def _shown(self, identity: str) -> dict[str, Any]:
        plan, state = self._state.plan, self._leases.of(identity)
        egress = next((e for e in plan.egress_ips if e.id == identity), None) if plan else None
        changes = self._leases.state.changes if self._leases.state else ()
        last = next((change for change in reversed(changes) if change.id == identity), None)
        return {
            "gateway": egress.gateway if egress else identity,
            "ip": egress.address if egress else "",
            "master": state.master if state else "",
            "epoch": state.epoch if state else 0,
            "silentMs": last.silent_ms if last else 0,
        }
