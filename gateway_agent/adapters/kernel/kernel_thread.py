"""Give the agent's event loop access to the kernel: blocking calls run in one worker thread, in order.

A single thread, because two concurrent changes of the same tables would overwrite each other. A thread, because a large
transaction takes tens of milliseconds and must not block the event loop.

One call has a thread of its own: stale connections are deleted while a transaction runs, because the packets of their
pods are dropped until then. A deletion by mark touches no table, and may happen at any time and twice.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ParamSpec, TypeVar

from cni.datapath import reconcile
from cni.datapath.objects import node_nft
from cni.kernel import ids, rtnl
from cni.kernel.errors import Outcome
from cni.kernel.netlink import links, monitor, netfilter, nflog
from cni.kernel.netlink.conntrack import ctnetlink
from cni.kernel.netlink.constants import NETLINK_NETFILTER, NETLINK_ROUTE
from cni.kernel.netlink.monitor import Event
from cni.kernel.nftables import nft
from cni.plan import Plan

from ...gateway_rules import snat
from ...policy import keeper_config

EGRESS_HOOK = (5, 16)
"""First Linux version with the egress hook of netdev tables, which the fence needs."""
P = ParamSpec("P")
T = TypeVar("T")


def keep_sockets() -> None:
    """Keep netfilter's sockets open while this process runs: closing one delays the lease daemon."""
    netfilter.stay()
    nft.stay()


class Kernel:
    """Access to the kernel. The methods raise :class:`cni.kernel.errors.KernelError`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")
        self._stale_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stale")
        self._able = False
        self._monitors: list[monitor.Monitor] = []
        self._packet_logs: list[nflog.PacketLog] = []

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **kwargs))

    def watch(self, changed: Callable[[list[Event]], None]) -> None:
        """Call ``changed`` with the kernel's events from now on. Must be called in the event loop's thread."""
        for family in (NETLINK_ROUTE, NETLINK_NETFILTER):
            watcher = monitor.Monitor(family)
            self._monitors.append(watcher)
            asyncio.get_running_loop().add_reader(watcher.fileno(), _report, watcher, changed)

    def watch_stale(self, found: Callable[[], None]) -> None:
        """Call ``found`` from now on after each logged packet of a stale connection. Raises OSError."""
        packet_log = nflog.PacketLog(ids.STALE_GROUP)
        self._packet_logs.append(packet_log)
        asyncio.get_running_loop().add_reader(packet_log.fileno(), _wake_reader, packet_log, found)

    async def reconcile(self, plan: Plan, devices: Sequence[str]) -> Outcome:
        """Reconcile the kernel with the plan. ``devices``: those with the fence."""
        if not self._able:
            # If the kernel needs no change, nothing else would reveal that nft is missing.
            await self._run(nft.run, "--version")
            self._able = True
        return await self._run(_reconcile, plan, devices)

    def assume_applied(self, plan: Plan, devices: Sequence[str]) -> None:
        """Assume that an earlier process reconciled the kernel with this plan: tables that still match it are kept."""
        for text in texts(plan, devices):
            nft.remember(text)

    def render(self, plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
        """Return all rules of a plan as nft texts; change nothing."""
        return texts(plan, devices)

    async def missing(self, plan: Plan) -> tuple[str, ...]:
        """Return texts about the parts of the node's data path that differ from the plan."""
        return await self._run(reconcile.missing, plan)

    async def host_veths(self, netns: str, names: Iterable[str]) -> links.HostVeths:
        """Return the host-side veths of a pod, as :func:`cni.kernel.netlink.links.host_veths`."""
        return await self._run(links.host_veths, netns, names)

    async def leading(self, addresses: Sequence[str]) -> dict[str, str]:
        """Return the host-side veth that leads to each address. For an unknown address the kernel starts to resolve."""
        return await self._run(rtnl.leading, addresses)

    async def tag(self, device: str, group: int) -> None:
        """Set the group of an interface."""
        await self._run(links.tag, device, group)

    async def tag_of(self, device: str) -> int | None:
        """Return the group of an interface; None if there is no such interface."""
        return await self._run(links.tag_of, device)

    async def tagged(self) -> dict[str, int]:
        """Return the groups by name of the interfaces whose group is in our range."""
        return await self._run(links.tagged)

    async def guard(self, text: str) -> tuple[str, ...]:
        """Reconcile the tables of the guard with these rules. Return a text for each change."""
        return await self._run(nft.ensure, text)

    async def guarded(self) -> bool:
        """Return True if a table of the guard exists."""
        return await self._run(_guarded)

    async def unjudged(self) -> tuple[str, ...]:
        """Return the names of the veths in group 0 whose peer is in another network namespace."""
        return await self._run(links.unjudged)

    async def forget_connections(self, stale: Mapping[str, Callable[[str], bool]]) -> None:
        """Delete the non-TCP connections that a source opened to remote addresses for which its function is True."""
        await self._run(ctnetlink.delete_opened, stale)

    async def forget_pod(self, address: str) -> None:
        """Delete all connections of a pod's address, so that the next pod with that address does not inherit them."""
        await self._run(ctnetlink.delete_of, address)

    async def forget_stale(self, mask: int) -> None:
        """Delete the connections that a rule has marked as stale. ``mask``: the mask of the marks."""
        stale = ids.MarkLayout(mask).stale
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._stale_thread, ctnetlink.delete_marked, stale, mask)

    async def flush_by_source(self, address: str, mask: int) -> None:
        """Delete the connections that came out of the tunnels and were SNATed to this address."""
        await self._run(ctnetlink.delete_shown, address, ids.MarkLayout(mask).tunneled)

    async def set_tcp_liberal(self, address: str, mask: int) -> None:
        """Set IP_CT_TCP_FLAG_BE_LIBERAL on the TCP connections from the tunnels that are SNATed to this address.

        So they survive a move to another master and back, whose sequence numbers this kernel has not seen.
        """
        await self._run(ctnetlink.set_tcp_liberal, address, ids.MarkLayout(mask).tunneled)


def _wake_reader(packet_log: nflog.PacketLog, found: Callable[[], None]) -> None:
    if packet_log.read():
        found()


def _report(watcher: monitor.Monitor, changed: Callable[[list[Event]], None]) -> None:
    if events := watcher.read():
        changed(events)


def texts(plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
    """Return all nft transactions of a plan. ``devices``: those with the fence."""
    return (*_gateway_texts(plan, devices), node_nft(plan))


def _gateway_texts(plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
    """Return the nft transactions of an egress node, in order.

    The fence comes first: no packet may use a virtual address before it is in place. The gateway's rules come before
    the node's: packets out of a tunnel must be checked before packets enter one.
    """
    return keeper_config.fence(plan, devices, _has_egress_hook()), snat.gateway_nft(plan)


def _has_egress_hook() -> bool:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2]) >= EGRESS_HOOK


def _guarded() -> bool:
    return any(line.endswith(f" {ids.NFT_GUARD}") for line in nft.run("list", "tables").splitlines())


def _reconcile(plan: Plan, devices: Sequence[str]) -> Outcome:
    led = reconcile.lead_answers(plan)
    done = [message for text in _gateway_texts(plan, devices) for message in nft.ensure(text)]
    outcome = reconcile.ensure(plan)
    return replace(outcome, done=(*led, *done, *outcome.done))
