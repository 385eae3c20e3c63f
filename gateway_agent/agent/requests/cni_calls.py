"""Answer the CNI calls of the plugin."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from pathlib import Path

from cni import contract
from cni.calls.cni_request import Call, CallError, parse_call
from cni.kernel.errors import KernelError

from ..pods.pod_policies import identity
from ..pods.records import Key, Pods
from ..pods.tagging import Tagging
from ..ports import Kernel
from ..rounds.reconciler import Reconciler
from ..state import NodeState
from .call_counts import UNKNOWN, CallCounts
from .cni_add import CniAdd

log = logging.getLogger(__name__)


class CniCalls:
    """The handler of CNI calls, any number at once. ``counts``: counts each call."""

    def __init__(
        self,
        run_dir: Path,
        state: NodeState,
        kernel: Kernel,
        pods: Pods,
        tagging: Tagging,
        reconciler: Reconciler,
        add: CniAdd,
        counts: CallCounts,
    ) -> None:
        self._counts = counts
        self._run_dir = run_dir
        self._state = state
        self._kernel = kernel
        self._pods = pods
        self._tagging = tagging
        self._reconciler = reconciler
        self._calls = {
            "ADD": add.add,
            "DEL": self._delete,
            "CHECK": self._check,
            "GC": self._collect,
            "STATUS": self._status,
        }

    async def answer(self, request: bytes) -> bytes:
        """Return the answer to a call. Never raises: an exception becomes an error answer."""
        begun, command = time.monotonic(), UNKNOWN
        refused: contract.CNIError | None = None
        try:
            call = _parsed(request)
            command = call.command
            log.debug("%s %s %s/%s", call.command, call.container_id, call.namespace, call.name)
            await self._calls[call.command](call)
        except contract.CNIError as error:
            refused = error
        except KernelError as error:
            refused = CallError(contract.KERNEL_REFUSED, error.message, error.hint)
        except OSError as error:
            refused = CallError(contract.IO_FAILURE, str(error), f"see {self._run_dir}")
        except Exception as error:
            log.exception("a CNI call failed")
            refused = CallError(contract.INTERNAL, f"the agent failed: {error!r}", "see its log")
        self._counts.count(command, refused.code if refused else 0, time.monotonic() - begun)
        return _refusal(request, refused) if refused else contract.OK

    async def _delete(self, call: Call) -> None:
        await self._pods.delete((call.container_id, call.ifname))

    async def _check(self, call: Call) -> None:
        if self._state.applied is None:
            await self._reconciler.next_round()
        key = call.container_id, call.ifname
        if self._pods.get(key) is None:
            wrong = f"container {call.container_id} was not added"
            raise CallError(contract.NOT_AS_ADDED, wrong, "the runtime must ADD it first")
        plan, found = self._state.applied, await self._wrong(key)
        while found and self._state.applied is not plan:
            # The checked state may have just been replaced.
            plan, found = self._state.applied, await self._wrong(key)
        if found:
            message = "the pod's path to its gateway is not as it was set up"
            raise CallError(contract.NOT_AS_ADDED, message, "; ".join(found))

    async def _wrong(self, key: Key) -> list[str]:
        """Return a text for each difference from the plan."""
        plan = self._state.applied
        if plan is None:
            hint = self._state.trouble or "it is starting"
            raise CallError(contract.TRY_AGAIN_LATER, "the agent is not ready", hint)
        pod, inventory = self._pods.get(key), self._state.inventory
        if pod is None or inventory is None:
            raise CallError(contract.TRY_AGAIN_LATER, "the pod was deleted while it was being checked")
        group = self._tagging.selection(plan).group_for(identity(pod.record, inventory))
        if not group:
            return []
        interfaces = pod.record.host_interfaces or ("",)
        wrong = list(await self._kernel.missing(plan))
        policies = next((s.policies for s in plan.policy_sets if s.group == group), ("unknown policies",))
        for interface in interfaces:
            if await self._kernel.tag_of(interface) != group:
                wrong.insert(0, f"interface {interface} does not carry the tag of {', '.join(policies)}")
        return wrong

    async def _collect(self, call: Call) -> None:
        # The list is of one network; records of other networks stay.
        for key, record in list(self._pods.records.items()):
            if record.network in ("", call.network) and key not in call.valid_attachments:
                await self._pods.delete(key)

    async def _status(self, call: Call) -> None:
        if self._state.applied is None or self._state.trouble:
            reason = self._state.trouble or "it is starting"
            raise CallError(contract.NOT_AVAILABLE, "the agent cannot serve pods now", reason)


def _parsed(request: bytes) -> Call:
    """Return the call of a request. Raises :class:`cni.contract.CNIError`."""
    try:
        environment, configuration = contract.split_cni_request(request)
    except ValueError as error:
        hint = "cni/contract.py says what this socket takes"
        raise CallError(contract.NOT_JSON, str(error), hint) from None
    return parse_call(environment, configuration)


def _refusal(request: bytes, error: contract.CNIError) -> bytes:
    """Return the error object, in the CNI version that the request's configuration names."""
    version = "1.1.0"
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        found = json.loads(contract.split_cni_request(request)[1])["cniVersion"]
        version = found if isinstance(found, str) else version
    answer = {"cniVersion": version, "code": error.code, "msg": error.msg, "details": error.details}
    return contract.ERROR + json.dumps(answer).encode()
