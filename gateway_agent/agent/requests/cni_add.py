"""Carry out the ADD of a pod.

An ADD registers the pod, reads the newest objects, and waits: for a round of the node if the kernel may be behind these
objects for this pod, and in any case for the round that tags the pod. The ADD ends when the tag is set, or with an
error: never by an older plan.
"""

from __future__ import annotations

import asyncio
import logging
import time

from cni import contract
from cni.calls.attachments import Attachment
from cni.calls.cni_request import Call, CallError
from cni.kernel import ids
from cni.kernel.errors import KernelError
from cni.kernel.netlink.links import HostVeths
from cni.plan import Plan, PodIdentity

from ...manifests.store import NotKnown
from ...policy import planner
from ...policy.pods import unlabelled_pods
from ..inputs.objects import KnownObjects
from ..pods.containers import Containers
from ..pods.pod_policies import identity, selecting, uncertain
from ..pods.records import Key, Pod, Pods
from ..pods.tagging import Tagging
from ..ports import Kernel
from ..rounds.planning import Planning
from ..rounds.pod_rounds import PodRounds
from ..rounds.reconciler import Reconciler
from ..state import NodeState

log = logging.getLogger(__name__)
MAX_ROUNDS = 3
"""Largest number of rounds that an ADD waits for while another program keeps changing the kernel."""
ADD_S = contract.DEADLINE_S - 2.0
"""Seconds within which an ADD is answered, if necessary with an error: after its deadline the plugin follows the plan
on disk, which may be older than the objects that the agent knows.
"""


class CniAdd:
    """The handler of ADDs, any number at once. It has no state of its own."""

    def __init__(
        self,
        state: NodeState,
        kernel: Kernel,
        objects: KnownObjects,
        planning: Planning,
        pods: Pods,
        tagging: Tagging,
        containers: Containers,
        reconciler: Reconciler,
        pod_rounds: PodRounds,
    ) -> None:
        self._state = state
        self._kernel = kernel
        self._objects = objects
        self._planning = planning
        self._pods = pods
        self._tagging = tagging
        self._containers = containers
        self._reconciler = reconciler
        self._pod_rounds = pod_rounds

    async def add(self, call: Call) -> None:
        """Carry out the call. Raises CNIError, KernelError and OSError."""
        key = call.container_id, call.ifname
        with self._pods.starting(key):
            try:
                await self._attach_in_time(key, call)
                if pod := self._pods.get(key):
                    self._pods.refusals.started(pod.record)
            except (CallError, KernelError) as error:
                if call.failure_policy != "Ignore":
                    raise
                log.warning("%s starts without its tag: %s", call.subject, error)
                await self._let_pass(key)

    async def _let_pass(self, key: Key) -> None:
        try:
            await self._tagging.let_pass(key)
        except KernelError as error:
            log.error("%s", error)

    async def _attach_in_time(self, key: Key, call: Call) -> None:
        """Attach the pod. Raises CallError if that takes longer than an ADD may."""
        try:
            async with asyncio.timeout(ADD_S) as limit:
                await self._attach(key, call)
        except TimeoutError:
            # The kernel and the store may raise TimeoutError, too.
            if not limit.expired():
                raise
            late = f"what {call.subject} needs is not set up after {ADD_S:g} s"
            raise CallError(contract.TRY_AGAIN_LATER, late, self._busy_with()) from None

    def _busy_with(self) -> str:
        if self._state.trouble:
            return self._state.trouble
        return (
            "the store does not answer in time" if self._objects.reading else "the agent is busy with edits"
        )

    async def _attach(self, key: Key, call: Call) -> None:
        """Register the pod, and return when it has the tag that the newest known objects require."""
        found = await self._kernel.host_veths(call.netns, call.host_interfaces)
        if found.named and self._state.plan is None:
            await self._refresh(call)
            await self._first_plan(call)
        record = self._record(call, found)
        if self._pods.register(record):
            await self._pods.forget_connections_of(record)
        await self._refresh(call)
        await self._containers.find_labels(key)
        while True:
            caught_up = await self._caught_up(key)
            self._refuse_if_unable(key, call)
            plan, inventory = self._state.applied, self._state.inventory
            await self._pod_rounds.tag(key)
            # An edit or a round may have come meanwhile: then the tag may be wrong.
            if self._is_attached(key, caught_up):
                if self._state.applied is None:
                    await self._tagging.let_pass(key)
                return
            if self._state.applied is plan and self._state.inventory is inventory:
                # Neither has: another attempt at once would have the same result.
                await self._reconciler.next_round()

    async def _refresh(self, call: Call) -> None:
        """Read the newest objects. Raises CallError, and OSError."""
        try:
            await self._objects.refresh(call.namespace, call.name, call.uid)
        except NotKnown as error:
            raise CallError(contract.TRY_AGAIN_LATER, str(error), "it can in a moment") from error
        except OSError as error:
            if self._state.inventory is not None:
                raise
            unread = "the agent has not read its store yet"
            raise CallError(contract.TRY_AGAIN_LATER, unread, str(error)) from error

    async def _first_plan(self, call: Call) -> None:
        """Wait for a plan, whose uplinks are no interfaces of pods. Raises CallError if rounds fail before it.

        An uplink in a pod's record would be tagged, and would be missing among the interfaces of the plan.
        """
        rounds = 0
        while self._state.plan is None:
            if rounds >= MAX_ROUNDS and self._state.trouble:
                raise CallError(
                    contract.TRY_AGAIN_LATER,
                    f"{call.netns} of {call.subject} cannot be seen from here, and before the first plan no interface "
                    "is known to be the pod's and not the node's own",
                    self._state.trouble,
                )
            await self._reconciler.next_round()
            rounds += 1

    def _record(self, call: Call, found: HostVeths) -> Attachment:
        # A node's own interface may be a veth, too, and the pod's network namespace may not be visible from here.
        uplinks = self._state.plan.uplinks if self._state.plan else ()
        hosts = tuple(name for name in found.names if name not in uplinks)
        return Attachment(
            container_id=call.container_id, ifname=call.ifname, netns=call.netns,
            host_interface=hosts[0] if hosts else "", other_interfaces=hosts[1:], named=found.named,
            namespace=call.namespace, name=call.name, uid=call.uid, labels=call.labels, addresses=call.addresses,
            network=call.network,
        )  # fmt: skip

    async def _caught_up(self, key: Key) -> bool:
        """Wait until the kernel can take this pod by the newest known objects.

        Return False if another program keeps changing our objects in the kernel, or if rounds fail: then
        :meth:`_plan_for` decides.
        """
        rounds = 0
        while self._needs_round(pod := self._identity(key)):
            hindered = self._state.trouble or not self._reconciler.outdated_for(pod)
            if rounds >= MAX_ROUNDS and hindered:
                return False
            await self._reconciler.next_round()
            rounds += 1
        return True

    def _needs_round(self, pod: PodIdentity) -> bool:
        """Return True if the kernel cannot take this pod yet."""
        plan = self._state.applied
        if plan is None or self._state.kernel_in_doubt or self._reconciler.outdated_for(pod):
            return True
        selection = self._tagging.selection(plan)
        return bool(selection.policies_for(pod)) and selection.set_for(pod) is None

    def _refuse_if_unable(self, key: Key, call: Call) -> None:
        """Raise CallError if this pod cannot get the tag that it needs."""
        pod = self._identity(key)
        self._refuse_without_labels(key, call, pod)
        plan = self._plan_for(key, pod)
        policies = self._tagging.selection(plan).policies_for(pod) if plan else ()
        if plan is None or not policies:
            return
        record = self._pod(key).record
        if not record.host_interfaces:
            self._pods.remove(key)
            raise CallError(
                contract.NO_HOST_INTERFACE,
                f"{record.subject} is selected by {', '.join(policies)} but has no host-side veth",
                "an egress gateway works with pods whose network plugin makes a veth (bridge, ptp, calico, …), not "
                "with macvlan or the host's network: exclude the pod from the policy or change its network",
            )
        if self._tagging.selection(plan).set_for(pod) is None:
            raise CallError(
                contract.TRY_AGAIN_LATER,
                "no number is left for this pod's policies",
                "widen mark.mask in the agent's configuration, or use fewer combinations of policies",
            )

    def _refuse_without_labels(self, key: Key, call: Call, pod: PodIdentity) -> None:
        """Raise CallError if the labels are unknown and decide about the tag."""
        inventory = self._state.inventory
        if inventory is None or pod.labels is not None:
            return
        if inventory.knows_pods:
            raise CallError(
                contract.TRY_AGAIN_LATER,
                f"the labels of {call.subject} are not known",
                "the Kubernetes API does not answer, or has no such pod: see the agent's log",
            )
        if policies := uncertain(planner.policies(inventory), inventory, pod):
            record = self._pod(key).record
            refusal = unlabelled_pods.refused(record, policies, self._pods.unknown.get(key, ""))
            if call.failure_policy != "Ignore":
                self._pods.refusals.note(refusal, time.monotonic())
            raise CallError(contract.TRY_AGAIN_LATER, f"{refusal.source}: {refusal.message}", refusal.hint)

    def _is_attached(self, key: Key, caught_up: bool) -> bool:
        """Return True if the pod's tag is right by the newest known objects. Raises CallError if it cannot be."""
        pod = self._identity(key)
        plan = self._plan_for(key, pod)
        if plan is None:
            return True
        if self._pod(key).tag != ids.interface_group(self._tagging.selection(plan).group_for(pod)):
            return False
        return not (self._needs_round(pod) if caught_up else self._reconciler.outdated_for(pod))

    def _plan_for(self, key: Key, pod: PodIdentity) -> Plan | None:
        """Return the plan in the kernel; None if there is none and the pod needs none. Raises CallError."""
        state = self._state
        if state.applied is not None and not state.trouble:
            return state.applied
        inventory = state.inventory
        if inventory is not None and not selecting(planner.policies(inventory), inventory, pod):
            return None
        wrong = f"the path of {self._pod(key).record.subject} to its gateway is not complete"
        raise CallError(contract.TRY_AGAIN_LATER, wrong, state.trouble or "the agent is starting")

    def _pod(self, key: Key) -> Pod:
        """Return the registered pod. Raises CallError if a DEL has removed it meanwhile."""
        pod = self._pods.get(key)
        if pod is None:
            gone = f"the pod of container {key[0][:12]} was deleted while it was being added"
            raise CallError(contract.TRY_AGAIN_LATER, gone, "the runtime may ADD it again")
        return pod

    def _identity(self, key: Key) -> PodIdentity:
        if self._state.inventory is None:
            raise CallError(
                contract.TRY_AGAIN_LATER, "the agent has not read its store yet", "its log says why"
            )
        return identity(self._pod(key).record, self._planning.usable(self._state.inventory))
