"""The kernel, for the agent's event loop: every blocking call runs in one worker thread, in order.

One thread, because two changes to the same tables at once are two truths; a thread, because a large transaction
takes tens of milliseconds and must not delay what the loop hears meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from cni.datapath import reconcile
from cni.datapath.objects import node_nft
from cni.kernel import conntrack_cli, ids, rtnl
from cni.kernel.netlink import ctnetlink, links, monitor, nflog
from cni.kernel.netlink.constants import NETLINK_NETFILTER, NETLINK_ROUTE
from cni.kernel.netlink.monitor import Event
from cni.kernel.nftables import nft
from cni.plan import Plan

from ..gateway_rules import snat
from ..policy import keeper_config

EGRESS_HOOK = (5, 16)
"""Linux version since which netdev tables have the hook of the fence."""
P = ParamSpec("P")
T = TypeVar("T")


class Kernel:
    """What the agent may ask of the kernel. Raises :class:`cni.kernel.errors.KernelError`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")
        self._able = False
        self._monitors: list[monitor.Monitor] = []
        self._bells: list[nflog.PacketLog] = []

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **kwargs))

    def watch(self, changed: Callable[[list[Event]], None]) -> None:
        """From now on, tells ``changed`` what the kernel reports. Belongs in the event loop's thread."""
        for family in (NETLINK_ROUTE, NETLINK_NETFILTER):
            watcher = monitor.Monitor(family)
            self._monitors.append(watcher)
            asyncio.get_running_loop().add_reader(watcher.fileno(), _report, watcher, changed)

    def watch_stale(self, found: Callable[[], None]) -> None:
        """From now on, calls ``found`` when a packet came that belongs to a stale connection. Raises OSError."""
        bell = nflog.PacketLog(ids.STALE_GROUP)
        self._bells.append(bell)
        asyncio.get_running_loop().add_reader(bell.fileno(), _wake_reader, bell, found)

    async def reconcile(self, plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
        """Brings the kernel to the plan; says in words what it changed. ``devices``: where the fence stands."""
        if not self._able:
            # Where all stands already, nothing else would tell that no change can be made.
            await self._run(nft.run, "--version")
            self._able = True
        return await self._run(_stand, plan, devices)

    def assume_applied(self, plan: Plan, devices: Sequence[str]) -> None:
        """An earlier process has perhaps brought the kernel to this plan: what still stands of it is kept."""
        for text in texts(plan, devices):
            nft.remember(text)

    async def missing(self, plan: Plan) -> tuple[str, ...]:
        """What of the node's path is not as the plan says."""
        return await self._run(reconcile.missing, plan)

    async def host_veths(self, netns: str, names: Iterable[str]) -> links.HostVeths:
        """See :func:`cni.kernel.netlink.links.host_veths`."""
        return await self._run(links.host_veths, netns, names)

    async def leading(self, addresses: Sequence[str]) -> dict[str, str]:
        """The host-side veth that leads to each address; where none is known yet, the kernel begins to ask."""
        return await self._run(rtnl.leading, addresses)

    async def tag(self, device: str, group: int) -> None:
        """Sets an interface's group."""
        await self._run(links.tag, device, group)

    async def tag_of(self, device: str) -> int | None:
        """An interface's group; None where there is no such interface."""
        return await self._run(links.tag_of, device)

    async def tagged(self) -> dict[str, int]:
        """The interfaces whose group is in our range."""
        return await self._run(links.tagged)

    async def forget_connections(self, stale: Mapping[str, Callable[[str], bool]]) -> None:
        """Forgets what each source opened, TCP aside, to every remote address for which its function holds."""
        await self._run(conntrack_cli.delete_connections, stale)

    async def forget_pod(self, address: str) -> None:
        """Delete all connections of a pod's address: the next pod that gets it must not inherit them."""
        await self._run(ctnetlink.delete_of, address)

    async def forget_stale(self, mask: int) -> None:
        """Forgets the connections that a rule has found stale. ``mask``: of the marks."""
        await self._run(ctnetlink.delete_marked, ids.MarkLayout(mask).stale, mask)

    async def flush_by_source(self, address: str, mask: int) -> None:
        """Forgets what came out of the tunnels and left by this address."""
        await self._run(conntrack_cli.delete_shown, address, ids.MarkLayout(mask).tunneled)

    async def set_tcp_liberal(self, address: str, mask: int) -> None:
        """Lets what came out of the tunnels and leaves by this address go on elsewhere, and come back."""
        await self._run(ctnetlink.set_tcp_liberal, address, ids.MarkLayout(mask).tunneled)


def _wake_reader(bell: nflog.PacketLog, found: Callable[[], None]) -> None:
    if bell.read():
        found()


def _report(watcher: monitor.Monitor, changed: Callable[[list[Event]], None]) -> None:
    if events := watcher.read():
        changed(events)


def texts(plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
    """Return all rules of a plan. ``devices``: where the fence stands."""
    return (*_gateway_texts(plan, devices), node_nft(plan))


def _gateway_texts(plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
    """The fence first: no address may be spoken for before it stands. The gateway's rules before the node's: what comes
    out of a tunnel is judged before anything goes in."""
    return keeper_config.fence(plan, devices, _has_egress_hook()), snat.gateway_nft(plan)


def _has_egress_hook() -> bool:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2]) >= EGRESS_HOOK


def _stand(plan: Plan, devices: Sequence[str]) -> tuple[str, ...]:
    done = [words for text in _gateway_texts(plan, devices) for words in nft.ensure(text)]
    return (*done, *reconcile.ensure(plan))
