"""Carry out CNI commands without the agent, by the plan that the agent has written beside its socket.

If the plan is not sufficient for a pod (:mod:`cni.calls.fallback_context`), ``failurePolicy`` decides: the plugin
refuses the call, or leaves the pod untagged until the agent returns.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from .. import contract
from ..kernel import ids
from ..kernel.errors import KernelError
from . import attachments
from .attachments import Attachment
from .cni_request import Call, CallError, parse_call
from .fallback_context import OUTDATED, FallbackContext, group_of, read_plan, stamp_of

LOCK = "plugin.lock"
"""Name of the lock file in the run directory."""
VETH_HINT = (
    "a gateway serves pods with a host-side veth (bridge, ptp, calico, …), not macvlan or the host's "
    "network: let no policy select this pod, or put this plugin behind one that makes a veth"
)


def run(request: bytes, socket: str, reason: str) -> None:
    """Carry out the call of a ``cni1`` request. ``reason``: why the agent did not answer.

    Raises :class:`contract.CNIError`.
    """
    call = parse_call(*contract.split_cni_request(request))
    run_dir = Path(os.path.dirname(socket))
    stamp = stamp_of(run_dir / contract.PLAN)
    plan, trouble = read_plan(run_dir / contract.PLAN)
    context = FallbackContext(run_dir, plan, f"agent at {socket}: {reason}{trouble and '; '}{trouble}", stamp)
    commands: dict[str, Callable[[Call, FallbackContext], None]] = {
        "ADD": add,
        "DEL": delete,
        "CHECK": check,
        "GC": collect,
        "STATUS": status,
    }
    try:
        commands[call.command](call, context)
    except KernelError as error:
        raise CallError(contract.KERNEL_REFUSED, error.message, error.hint or context.trouble) from error
    except OSError as error:
        raise CallError(contract.IO_FAILURE, str(error), _io_hint(error, run_dir)) from error


def add(call: Call, context: FallbackContext) -> None:
    """Tag the pod's interfaces if a policy selects the pod, and record the attachment for the agent."""
    hosts: tuple[str, ...] = ()
    named = False
    group = 0
    try:
        hosts, named = _host_interfaces(call, context)
        before = attachments.load(context.run_dir, call.container_id, call.ifname)
        if before is None or before.host_interface != (hosts[0] if hosts else ""):
            _forget_connections(context, (call.container_id, call.ifname), call.addresses)
        group = group_of(call.pod, call.subject, context)
        _tag(call, context, hosts, group)
        _check_current(call, context)
    except (CallError, KernelError) as error:
        if call.failure_policy != "Ignore":
            raise
        print(f"egress-gateway: not tagged, failurePolicy is Ignore: {error}", file=sys.stderr)
        group = 0
        _let_pass(hosts)
    attachments.write(context.run_dir, _record(call, hosts, named, group))


def _host_interfaces(call: Call, context: FallbackContext) -> tuple[tuple[str, ...], bool]:
    """Return the pod's host-side veths, and True if only the CNI result names them."""
    from ..kernel.netlink import links

    found = links.host_veths(call.netns, call.host_interfaces)
    if context.plan is not None:
        return tuple(name for name in found.names if name not in context.plan.uplinks), found.named
    # Without a plan, a name in the result may be that of an uplink. If the name were in a record, the next agent would
    # tag the uplink.
    return () if found.named else found.names, found.named


def _record(call: Call, hosts: Sequence[str], named: bool, group: int) -> Attachment:
    return Attachment(
        container_id=call.container_id,
        ifname=call.ifname,
        netns=call.netns,
        host_interface=hosts[0] if hosts else "",
        other_interfaces=tuple(hosts[1:]),
        namespace=call.namespace,
        name=call.name,
        uid=call.uid,
        labels=call.labels,
        addresses=call.addresses,
        group=group,
        network=call.network,
        named=named,
    )


def delete(call: Call, context: FallbackContext) -> None:
    """Remove the attachment record and the pod's connections.

    The tag stays: a pod that is being stopped still sends, and those packets must not leave by another address.
    """
    record = attachments.load(context.run_dir, call.container_id, call.ifname)
    attachments.remove(context.run_dir, call.container_id, call.ifname)
    if record is not None:
        _forget_connections(context, record.key, record.addresses)


def _forget_connections(context: FallbackContext, key: tuple[str, str], addresses: tuple[str, ...]) -> None:
    """Delete connections of an earlier pod with these addresses, as the agent does: they keep the path of that pod.

    The connections of an address stay if another pod of this node has the same address now.
    """
    from ..kernel.netlink import links
    from ..kernel.netlink.conntrack import ctnetlink

    records, _ = attachments.load_all(context.run_dir)
    for address in addresses:
        others = (record for record in records if record.key != key and address in record.addresses)
        if not any(links.tag_of(other.host_interface) is not None for other in others):
            try:
                ctnetlink.delete_of(address)
            except KernelError as error:
                print(f"egress-gateway: {error}", file=sys.stderr)


def check(call: Call, context: FallbackContext) -> None:
    """Raise :class:`CallError` if the pod's tags or the data path are not as ADD left them."""
    record = attachments.load(context.run_dir, call.container_id, call.ifname)
    pod = call.pod
    if record is not None and pod.labels is None:
        pod = replace(pod, labels=record.labels)
    try:
        _check_current(call, context)
        group = group_of(pod, call.subject, context)
    except CallError:
        if call.failure_policy == "Ignore":
            return
        raise
    if record is None:
        unknown = f"container {call.container_id} was not added"
        raise CallError(contract.NOT_AS_ADDED, unknown, "the runtime must ADD it first")
    wrong = _wrong_tag(record, group) + (_missing(context) if group else ())
    if wrong:
        raise CallError(contract.NOT_AS_ADDED, "; ".join(wrong), "the agent repairs it; so does a new ADD")


def collect(call: Call, context: FallbackContext) -> None:
    """Remove records and connections of those attachments of this network that are not in the runtime's list."""
    records, _ = attachments.load_all(context.run_dir)
    for record in records:
        # The list has the attachments of one network; the records of other networks stay.
        if record.network in ("", call.network) and record.key not in call.valid_attachments:
            attachments.remove(context.run_dir, *record.key)
            _forget_connections(context, record.key, record.addresses)


def status(call: Call, context: FallbackContext) -> None:
    """Raise :class:`CallError` if every ADD of a pod that may be selected would fail."""
    if context.plan is None:
        raise CallError(contract.NOT_AVAILABLE, "there is neither an agent nor a plan", context.trouble)
    if context.outdated():
        raise CallError(contract.NOT_AVAILABLE, OUTDATED, context.trouble)


def _tag(call: Call, context: FallbackContext, hosts: Sequence[str], group: int) -> None:
    """Tag the host-side veths, after the devices, routes and rules of the tag are in place."""
    from ..kernel.netlink import links

    if not hosts:
        if group:
            wrong = f"{call.subject} is selected, but has no host-side veth"
            raise CallError(contract.NO_HOST_INTERFACE, wrong, VETH_HINT)
        return
    if group and context.plan is not None:
        from ..datapath.reconcile import ensure

        with _locked(context.run_dir):
            if not os.path.exists(context.run_dir / contract.PLAN):
                raise context.not_known("the plan was removed meanwhile")
            needed = next((s for s in context.plan.policy_sets if s.group == group), None)
            served = {"", *needed.egress_ids, *needed.egress_ids6} if needed else None
            for refusal in ensure(context.plan).refused:
                # The plugin alone reports no problem, so a pod without its gateway does not start.
                if served is None or refusal.egress_id in served:
                    raise refusal.error
    wanted = ids.interface_group(group)
    for host in hosts:
        found = links.tag_of(host)
        if found != wanted and (group or found == 0 or _ours(found)):
            links.tag(host, wanted)


def _let_pass(hosts: Sequence[str]) -> None:
    """Let interfaces without a tag pass the guard: by ``failurePolicy`` such pods start."""
    from ..kernel.netlink import links

    try:
        for host in hosts:
            if links.tag_of(host) == 0:
                links.tag(host, ids.GROUP_UNSELECTED)
    except KernelError as error:
        print(f"egress-gateway: {error}", file=sys.stderr)


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Hold the lock of the plugin: if two plugins found a device missing, the second one could not make it."""
    import fcntl

    descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_current(call: Call, context: FallbackContext) -> None:
    """Raise an error if the plan by which the pod was tagged is not the newest: an edit may select the pod.

    Call it after the tag is set: an agent that answers late may have written another plan in between.
    """
    if not context.outdated():
        return
    outdated = context.not_known(f"{OUTDATED}: a policy may select {call.subject}")
    if call.failure_policy != "Ignore":
        raise outdated
    print(f"egress-gateway: failurePolicy is Ignore: {outdated}", file=sys.stderr)


def _wrong_tag(record: Attachment, group: int) -> tuple[str, ...]:
    """Return the faults of the interfaces that ADD has tagged: those that differ from the plan.

    Interfaces that the pod got after this ADD are not checked.
    """
    from ..kernel.netlink import links

    if not record.host_interfaces:
        return ("the pod has no host-side veth",) if group else ()
    found = {host: links.tag_of(host) for host in record.host_interfaces}
    return tuple(
        f"interface {host} is gone" if now is None else f"interface {host} has group {now}, not {group}"
        for host, now in found.items()
        if now != group and (group or _ours(now))
    )


def _ours(group: int | None) -> bool:
    return group is not None and ids.GROUP_BASE <= group <= ids.GROUP_BLOCKED


def _missing(context: FallbackContext) -> tuple[str, ...]:
    from ..datapath.reconcile import missing

    return missing(context.plan) if context.plan else ()


def _io_hint(error: OSError, run_dir: Path) -> str:
    if error.errno == errno.ENOSPC:
        return f"make room in {run_dir}"
    return f"this plugin must be able to write in {run_dir}"
