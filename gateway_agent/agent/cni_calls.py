"""Answers on the agent's socket: the CNI calls of the plugin, the questions of ``egressctl``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from cni import contract
from cni.attachments import Attachment
from cni.cni_request import Call, CallError, parse_call
from cni.kernel.errors import KernelError
from cni.plan import Plan, PodIdentity

from ..manifests.store import NotKnown
from ..policy import planner, unlabelled_pods
from ..show import status
from ..show.snapshot import NodeSnapshot
from .control import Control
from .lease_client import NotHandedOver
from .observed import view
from .pods import group_for, identity, selecting, uncertain
from .service import Agent

log = logging.getLogger(__name__)
ROUNDS = 3
"""That an ADD waits for while the kernel is not as it should be: then another's hand is at work."""
ADD_S = contract.DEADLINE_S - 2.0
"""Seconds in which an ADD is answered, with an error if need be: the plugin waits no longer than its deadline, and
then goes by the plan on disk, which may be older than what is known here."""


class CniCalls:
    """One for each agent; holds no state of its own."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._cni = {
            "ADD": self._add,
            "DEL": self._delete,
            "CHECK": self._check,
            "GC": self._collect,
            "STATUS": self._status,
        }
        self._control: dict[str, Callable[[dict[str, Any]], Any]] = {
            "status": self._show_status,
            "pods": self._show_pods,
            "explain": self._explain,
            "events": self._events,
        }
        operations = Control(agent)
        self._operations: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "drain": operations.drain,
            "undrain": operations.undrain,
            "handover": operations.handover,
            "key": operations.key,
        }

    async def handle(self, request: bytes) -> bytes:
        """The answer to one request of either kind. Never raises: what goes wrong is an answer too."""
        if request.startswith(contract.CONTROL + b"\0"):
            return await self._answer_control(request[len(contract.CONTROL) + 1 :])
        try:
            try:
                environment, configuration = contract.split_cni_request(request)
            except ValueError as error:
                raise CallError(
                    contract.NOT_JSON, str(error), "cni/contract.py says what this socket takes"
                ) from None
            call = parse_call(environment, configuration)
            log.debug("%s %s %s/%s", call.command, call.container_id, call.namespace, call.name)
            await self._cni[call.command](call)
        except contract.CNIError as error:
            return _refusal(request, error)
        except KernelError as error:
            return _refusal(request, CallError(contract.KERNEL_REFUSED, error.message, error.hint))
        except OSError as error:
            return _refusal(
                request, CallError(contract.IO_FAILURE, str(error), f"see {self.agent.config.run_dir}")
            )
        except Exception as error:
            log.exception("a CNI call failed")
            return _refusal(
                request, CallError(contract.INTERNAL, f"the agent failed: {error!r}", "see its log")
            )
        return contract.OK

    # --- CNI ---------------------------------------------------------------------------------------------------

    async def _add(self, call: Call) -> None:
        record = Attachment(
            container_id=call.container_id, ifname=call.ifname, netns=call.netns, host_interface="",
            namespace=call.namespace, name=call.name, uid=call.uid, labels=call.labels, addresses=call.addresses,
            network=call.network,
        )  # fmt: skip
        self.agent.pods.starting.add(record.key)
        try:
            await self._attach_in_time(record, call)
            self.agent.pods.refusals.started(record)
        except (CallError, KernelError) as error:
            if call.failure_policy != "Ignore":
                raise
            log.warning("%s/%s starts without its tag: %s", call.namespace, call.name, error)
        finally:
            self.agent.pods.starting.discard(record.key)

    async def _attach_in_time(self, record: Attachment, call: Call) -> None:
        """See :meth:`_attach`. Raises CallError if it takes longer than an ADD may, whatever it waits for."""
        try:
            async with asyncio.timeout(ADD_S) as limit:
                await self._attach(record, call)
        except TimeoutError:
            # The kernel and the store have errors of that kind, too.
            if not limit.expired():
                raise
            late = f"what pod {call.namespace}/{call.name} needs does not stand after {ADD_S:g} s"
            raise CallError(contract.TRY_AGAIN_LATER, late, self.agent.busy_with) from None

    async def _attach(self, record: Attachment, call: Call) -> None:
        """Tags the interface, then says so. Returns only when the tag that the *applied* plan gives stands."""
        agent = self.agent
        found = await agent.kernel.host_veths(call.netns, call.host_interfaces)
        # A node's own interface may be a veth too, and a namespace may not be visible from here.
        hosts = tuple(name for name in found.names if agent.plan is None or name not in agent.plan.uplinks)
        first = hosts[0] if hosts else ""
        record = replace(record, host_interface=first, other_interfaces=hosts[1:], named=found.named)
        before = agent.pods.records.get(record.key)
        agent.pods.put(record)
        agent.pods.displace(record)
        if before is None or before.host_interface != record.host_interface:
            await agent.pods.forget_connections_of(record)
        try:
            await agent.take_edits(record.namespace, record.name, record.uid)
        except NotKnown as error:
            raise CallError(contract.TRY_AGAIN_LATER, str(error), "it can in a moment") from error
        if before is not None and before.group:
            await agent.next_round()
        record = await agent.containers.labelled(record)
        while True:
            caught_up = await self._caught_up(record)
            plan, record = await self._tagged(record, call)
            if plan is None:
                return
            # While the tag was being set, an edit or a round may have come: then this is not the answer yet.
            pod = self._identity(record)
            behind = self._needs_round(pod) if caught_up else agent.outdated_for(pod)
            if agent.applied is plan and not behind:
                return

    async def _caught_up(self, record: Attachment) -> bool:
        """Wait until the kernel can take this pod by the newest known objects.

        Returns False if another program keeps changing what is ours in the kernel, or rounds fail: then what
        :meth:`_standing` says counts.
        """
        rounds = 0
        while self._needs_round(pod := self._identity(record)):
            hindered = self.agent.trouble or not self.agent.outdated_for(pod)
            if rounds >= ROUNDS and hindered:
                return False
            await self.agent.next_round()
            rounds += 1
        return True

    async def _tagged(self, record: Attachment, call: Call) -> tuple[Plan | None, Attachment]:
        """Tag the interface by the plan that stands. Returns that plan, None if it selects no such pod.

        Nothing is awaited between the look at the plan and that answer.
        """
        agent = self.agent
        pod = self._identity(record)
        self._require_labels(record, pod, call)
        record = self._remembering(record, pod)
        plan = self._standing(pod)
        group = group_for(plan, pod) if plan is not None else 0
        if plan is None or not group:
            return None, record
        if not record.host_interfaces:
            agent.pods.remove(record.key)
            raise CallError(
                contract.NO_HOST_INTERFACE,
                f"pod {pod.namespace}/{pod.name} is selected by {', '.join(plan.policies_for(pod) or ())} "
                "but has no host-side veth",
                "an egress gateway works with pods whose network plugin makes a veth (bridge, ptp, calico, …), not "
                "with macvlan or the host's network: exclude the pod from the policy or change its network",
            )
        if plan.set_for(pod, plan.policies_for(pod) or ()) is None:
            raise CallError(
                contract.TRY_AGAIN_LATER,
                "no number is left for this pod's policies",
                "widen mark.mask in the agent's configuration, or use fewer combinations of policies",
            )
        for interface in record.host_interfaces:
            await agent.kernel.tag(interface, group)
        if record.key not in agent.pods.records:
            # The runtime waits no longer and has deleted it: its record must not come back.
            gone = f"pod {pod.namespace}/{pod.name} was deleted while it was being added"
            raise CallError(contract.TRY_AGAIN_LATER, gone, "a new ADD begins anew")
        record = replace(record, group=group)
        agent.pods.put(record, plan)
        agent.pod_led()
        return plan, record

    def _require_labels(self, record: Attachment, pod: PodIdentity, call: Call) -> None:
        """Raise CallError if the labels are unknown and the answer hangs on them."""
        inventory = self.agent.inventory
        if inventory is None or pod.labels is not None:
            return
        if inventory.knows_pods:
            raise CallError(
                contract.TRY_AGAIN_LATER,
                f"nobody knows the labels of pod {pod.namespace}/{pod.name}",
                "the Kubernetes API does not answer, or has no such pod: see the agent's log",
            )
        if policies := uncertain(planner.policies(inventory), inventory, pod):
            refusal = unlabelled_pods.refused(record, policies, self.agent.pods.unknown.get(record.key, ""))
            if call.failure_policy != "Ignore":
                self.agent.pods.refusals.note(refusal, time.monotonic())
            raise CallError(contract.TRY_AGAIN_LATER, f"{refusal.source}: {refusal.message}", refusal.hint)

    def _identity(self, record: Attachment) -> PodIdentity:
        if self.agent.inventory is None:
            raise CallError(
                contract.TRY_AGAIN_LATER, "the agent has not read its store yet", "its log says why"
            )
        return identity(record, self.agent.inventory)

    def _remembering(self, record: Attachment, pod: PodIdentity) -> Attachment:
        """The record of a pod whose labels are the store's: as they are now, in case it forgets the pod too early."""
        if self.agent.inventory is None or not self.agent.inventory.knows_pods or record.labels == pod.labels:
            return record
        record = replace(record, labels=pod.labels)
        self.agent.pods.put(record)
        return record

    def _standing(self, pod: PodIdentity) -> Plan | None:
        """The plan in the kernel; None where none stands and the pod does not need it."""
        agent = self.agent
        if agent.applied is not None and not agent.trouble:
            return agent.applied
        inventory = agent.inventory
        if inventory is not None and not selecting(planner.policies(inventory), inventory, pod):
            return None
        wrong = f"the way of pod {pod.namespace}/{pod.name} to its gateway does not stand"
        raise CallError(contract.TRY_AGAIN_LATER, wrong, agent.trouble or "the agent is starting")

    def _needs_round(self, pod: PodIdentity) -> bool:
        """Whether the kernel cannot take this pod yet."""
        plan = self.agent.applied
        if plan is None or self.agent.in_doubt or self.agent.outdated_for(pod):
            return True
        policies = plan.policies_for(pod)
        return bool(policies) and plan.set_for(pod, policies or ()) is None

    async def _delete(self, call: Call) -> None:
        pods = self.agent.pods
        record = pods.records.get((call.container_id, call.ifname))
        pods.remove((call.container_id, call.ifname))
        if record is not None:
            await pods.forget_connections_of(record)

    async def _check(self, call: Call) -> None:
        agent = self.agent
        if agent.applied is None:
            await agent.next_round()
        record = agent.pods.records.get((call.container_id, call.ifname))
        if record is None:
            raise CallError(
                contract.NOT_AS_ADDED,
                f"container {call.container_id} was not added",
                "the runtime must ADD it first",
            )
        plan, wrong = agent.applied, await self._wrong(record)
        while wrong and agent.applied is not plan:
            # What was looked at had just been replaced.
            plan, wrong = agent.applied, await self._wrong(record)
        if wrong:
            message = "the pod's way to its gateway is not as it was made"
            raise CallError(contract.NOT_AS_ADDED, message, "; ".join(wrong))

    async def _wrong(self, record: Attachment) -> list[str]:
        """What is not as the plan says, in words."""
        agent, plan = self.agent, self.agent.applied
        if plan is None:
            raise CallError(
                contract.TRY_AGAIN_LATER, "the agent is not ready", agent.trouble or "it is starting"
            )
        group = group_for(plan, self._identity(record))
        if not group:
            return []
        wrong = list(await agent.kernel.missing(plan))
        policies = ", ".join(record_policies(plan, group))
        for interface in record.host_interfaces or ("",):
            if await agent.kernel.tag_of(interface) != group:
                wrong.insert(0, f"interface {interface} does not carry the tag of {policies}")
        return wrong

    async def _collect(self, call: Call) -> None:
        # The list speaks of one network; records of others are none of its business.
        for key, record in list(self.agent.pods.records.items()):
            if record.network in ("", call.network) and key not in call.valid_attachments:
                self.agent.pods.remove(key)

    async def _status(self, call: Call) -> None:
        if self.agent.applied is None or self.agent.trouble:
            reason = self.agent.trouble or "it is starting"
            raise CallError(contract.NOT_AVAILABLE, "the agent cannot serve pods now", reason)

    # --- egressctl ---------------------------------------------------------------------------------------------

    async def _answer_control(self, text: bytes) -> bytes:
        try:
            question = json.loads(text)
            name = question.pop("call")
            operation, call = self._operations.get(name), self._control.get(name)
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
            operation = call = None
        if operation is None and call is None:
            hint = f"calls: {', '.join((*self._control, *self._operations))}"
            return json.dumps({"error": "not a call that this agent knows", "hint": hint}).encode()
        try:
            answer = await operation(question) if operation else call(question) if call else None
        except (status.NotKnown, NotHandedOver) as error:
            answer = {"error": str(error), "hint": error.hint}
        except Exception as error:
            log.exception("a question of egressctl failed")
            answer = {"error": f"the agent failed: {error!r}", "hint": "see its log"}
        return json.dumps(answer).encode()

    def _view(self) -> NodeSnapshot:
        seen = view(self.agent)
        if seen is None:
            raise status.NotKnown(
                "the agent has not read its store yet", "it is starting, or its log says why"
            )
        return seen

    def _show_status(self, _: dict[str, Any]) -> Any:
        return status.status(self._view())

    def _show_pods(self, _: dict[str, Any]) -> Any:
        return status.pods(self._view())

    def _explain(self, question: dict[str, Any]) -> Any:
        return status.explain(
            self._view(), str(question.get("pod") or ""), str(question.get("destination") or "")
        )

    def _events(self, _: dict[str, Any]) -> Any:
        return status.events(self._view())


def record_policies(plan: Plan, group: int) -> tuple[str, ...]:
    """Names of the policies that a tag stands for."""
    return next((s.policies for s in plan.policy_sets if s.group == group), ("unknown policies",))


def _refusal(request: bytes, error: contract.CNIError) -> bytes:
    """The error object, in the CNI version that the request's configuration names."""
    version = "1.1.0"
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        found = json.loads(contract.split_cni_request(request)[1])["cniVersion"]
        version = found if isinstance(found, str) else version
    answer = {"cniVersion": version, "code": error.code, "msg": error.msg, "details": error.details}
    return contract.ERROR + json.dumps(answer).encode()
