"""Run the agent of one node: follow the store, the kernel and the lease daemon, and run the rounds.

One event loop owns all state. Each change becomes a request for a round, and the round reconciles the node. Everything
may be done twice; after a failure at any point, the next round repairs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any

from cni.kernel.errors import KernelError
from cni.kernel.netlink.monitor import Event

from .parts import Parts


class Agent:
    """The running agent."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._interfaces_changed = asyncio.Event()

    @property
    def node(self) -> str:
        """Return the name of the node."""
        return self._parts.config.node_name

    def watch(self) -> None:
        """Start to follow events of the kernel. Call it in the event loop's thread."""
        self._parts.ports.kernel.watch(self.kernel_changed)
        self._parts.connections.watch()

    def tasks(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return the tasks that run as long as the agent does: a task that ends by itself has failed."""
        parts = self._parts
        peers, sets = parts.peers, parts.manifest_sets
        return (
            *((peers.serve(),) if peers else ()),
            *((sets.follow(),) if sets else ()),
            parts.objects.follow(),
            parts.leases.follow(parts.state.egress_name),
            parts.containers.run(parts.reconciler.request),
            self._follow_interfaces(),
            parts.reconciler.run(),
            parts.pod_rounds.run(),
            parts.connections.run(),
            parts.paths.run(parts.daemon_config.send),
            parts.answers.run(),
            parts.observer.count_changes(),
        )

    def kernel_changed(self, events: Collection[Event]) -> None:
        """Handle events of the kernel. An interface that went down counts at once, other events in the next round."""
        parts, state = self._parts, self._parts.state
        devices = {event.device for event in events}
        if any(event.kind == "overrun" for event in events):
            devices |= {"", *state.facts}
        # The kernel drops the routes of an interface that goes down or loses its last address, and does not report it.
        routed = {
            egress.interface for egress in (state.plan.egress_ips if state.plan else ()) if egress.routed
        }
        if any(event.ours for event in events) or devices & routed:
            parts.node_kernel.doubt()
            parts.reconciler.request()
        gateways = state.inventory.gateways if state.inventory else ()
        named = {name for gateway in gateways for name in (gateway.interface, *gateway.interfaces)}
        # A default route of another program, or a setting of all interfaces.
        of_the_node = any(event.kind == "uplink" or event == Event("setting") for event in events)
        of_pods = parts.pods.interfaces()
        if of_the_node or devices & ((state.facts.keys() - of_pods) | named):
            self._interfaces_changed.set()
        if devices & of_pods:
            # Another program may have changed a tag.
            parts.reconciler.request()

    async def _follow_interfaces(self) -> None:
        """Read the interfaces after each of their events: the lease daemon gets a change before the next round."""
        while True:
            await self._interfaces_changed.wait()
            self._interfaces_changed.clear()
            try:
                changed = await self._parts.planning.read_interfaces()
            except (KernelError, OSError):
                # Hundreds of addresses change while they are listed. The next round reads them again, and reports a
                # failure.
                self._parts.reconciler.request()
                continue
            if changed:
                self._parts.daemon_config.send()
                self._parts.reconciler.request()

    async def stop(self) -> None:
        """Hand every lease over and let the lease daemon end. The data path stays: selected pods never leak."""
        self._parts.leases.stopping = True
        self._parts.daemon_config.send()
        await self._parts.leases.ended()
        await self._parts.connection_sync.stop()

    def write_again(self) -> None:
        """Write the files of the run directory again after another program has emptied it. Raises OSError."""
        parts = self._parts
        # Until the next round it is not known whether the plan is the newest.
        parts.plan_file.mark_outdated()
        parts.reconciler.request()
        if parts.state.plan is not None:
            parts.plan_file.write(parts.state.plan)
        parts.pods.write_again()
