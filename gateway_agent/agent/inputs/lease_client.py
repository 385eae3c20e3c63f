"""The agent's client of the lease daemon: sends its configuration and requests, and follows its state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Collection, Mapping

from cni.plan import Plan

from ...config import AgentConfig
from ...lease.ipc import EgressState, HandoverRequest, KeeperState, OwnKeys
from ...manifests.model import DRAIN, Inventory
from ...policy import keeper_config
from ..ports import LeaseDaemon
from . import startup_grace

log = logging.getLogger(__name__)
CLOCK_RESOLUTION_S = 0.01
"""Resolution of the clock, seconds: a timer may be early by this."""
HANDOVER_TIMEOUT_S = 5.0
"""Seconds that an operator waits for a handover: a hundred times its usual duration."""
DRAINED, CORDONED = "drained by an operator", "its node is cordoned"
STOPPING = "its node is being shut down"
ANNOTATED = f"its node has the annotation {DRAIN}"


class NotHandedOver(Exception):
    """A requested handover has not taken place. ``hint`` says why."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class LeaseClient:
    """The client. ``changed`` is called with each new state of the daemon. A drain outlives the agent's process."""

    def __init__(self, config: AgentConfig, daemon: LeaseDaemon, changed: Callable[[], None]) -> None:
        self.state: KeeperState | None = None
        self.stopping = False
        self._config = config
        self._daemon = daemon
        self._changed = changed
        self._met = 0.0
        self._lease = config.duration_ns / 1e9
        self._moves: tuple[HandoverRequest, ...] = ()
        self._drain_file = config.run_dir / "drained"
        self._news = asyncio.Condition()

    # --- the state of the daemon ------------------------------------------------------------------------------------

    async def follow(self, name: Callable[[str], str]) -> None:
        """Follow each state of the daemon until cancelled. ``name`` returns the name of an egress IP by its id."""
        loop = asyncio.get_running_loop()
        async for state in self._daemon.states():
            # Not compared by time, because clocks are adjusted.
            known = frozenset(self.state.changes) if self.state else frozenset()
            for change in state.changes:
                if change not in known:
                    log.info(
                        "master of %s: %s -> %s, epoch %d, silent for %d ms (%s)",
                        name(change.id),
                        change.before or "none",
                        change.after or "none",
                        change.epoch,
                        change.silent_ms,
                        change.reason,
                    )
            if self.state is None or state.incarnation != self.state.incarnation:
                self._met = loop.time()
                for seconds in (self._lease, startup_grace.STARTUP_GRACE_S):
                    loop.call_later(seconds + CLOCK_RESOLUTION_S, self._changed)
            self.state = state
            self._changed()
            async with self._news:
                self._news.notify_all()

    def isolated(self, plan: Plan | None) -> bool:
        """Return True if this node has no contact with a majority of the voters. ``plan``: the one in force."""
        return startup_grace.isolated(self.state, plan, self._listened(), self._lease)

    def of(self, identity: str) -> EgressState | None:
        """Return the state of an egress IP; None if the daemon has not reported it."""
        return next((e for e in self.state.egress if e.id == identity), None) if self.state else None

    def masters(self, plan: Plan | None) -> dict[str, tuple[str, int]]:
        """Return the master and its epoch by egress id, without unknown ones. ``plan``: the one in force."""
        return startup_grace.masters(self.state, plan, self._listened())

    @property
    def failure(self) -> str:
        """Return the problem of the daemon's process; see :class:`gateway_agent.agent.ports.LeaseDaemon`."""
        return self._daemon.failure

    @property
    def settled(self) -> bool:
        """Return True once the daemon has run for long enough to know every master."""
        return self.state is not None and self._listened() >= startup_grace.STARTUP_GRACE_S

    def shown(self) -> frozenset[str]:
        """Return the source addresses outside, as the masters report them."""
        return frozenset(e.shown for e in self.state.egress if e.shown) if self.state else frozenset()

    def _listened(self) -> float:
        """Return the seconds since the daemon's first state."""
        return asyncio.get_running_loop().time() - self._met

    # --- its configuration -----------------------------------------------------------------------------------------

    def send_config(
        self,
        plan: Plan,
        unready: Mapping[str, str],
        behind: Mapping[str, str],
        tunnels: Collection[str],
        carried: Collection[str],
        inventory: Inventory,
    ) -> None:
        """Send the daemon the configuration that is in force from now on.

        ``unready``, ``tunnels``, ``carried``: see :func:`gateway_agent.policy.keeper_config.keeper_config`.
        ``behind``: why this node should not take over egress IPs yet, though it may keep those it has.
        """
        drained = self._hands_over(inventory)
        able = [identity for identity, reason in unready.items() if not reason]
        returning = {g.name for g in inventory.gateways if g.failback == "Automatic"}
        config = keeper_config.keeper_config(
            plan,
            keeper_config.KeeperSettings(
                port=self._config.cluster_port,
                key_file=str(self._config.key_file),
                accept_key_files=tuple(map(str, self._config.accept_key_files)),
                cluster_cidrs=self._config.cluster_cidrs,
                heartbeat_ns=self._config.heartbeat_ns,
                duration_ns=self._config.duration_ns,
                availability_first=self._config.quorum == "AvailabilityFirst",
            ),
            {identity: reason or drained or behind.get(identity, "") for identity, reason in unready.items()},
            tunnels,
            # An egress IP that this node cannot serve is released at once; a drained node still forwards.
            leaving=able if drained else (),
            keeping=() if drained else [identity for identity in able if behind.get(identity)],
            failback=[e.id for e in plan.egress_ips if e.gateway in returning],
            carried=carried,
            moves=self._moves,
            published=inventory.voters,
            stopping=self.stopping,
        )
        self._daemon.send(config)

    def _hands_over(self, inventory: Inventory) -> str:
        """Return why this node must hand over every egress IP; empty if it may serve."""
        if self.drained:
            return DRAINED
        mine = [node for node in inventory.nodes if node.name == self._config.node_name]
        if any(node.drained for node in mine):
            return ANNOTATED
        if any(node.stopping for node in mine):
            return STOPPING
        return CORDONED if any(node.cordoned for node in mine) else ""

    async def ended(self) -> None:
        """Wait until a daemon that was stopped has handed everything over, for some seconds at most."""
        await self._daemon.ended()

    # --- what operators ask --------------------------------------------------------------------------------------

    @property
    def drained(self) -> bool:
        """Return True after :meth:`drain`, until :meth:`undrain`."""
        return self._drain_file.exists()

    def held_by(self, node: str) -> list[str]:
        """Return the ids of the egress IPs that a node is master of."""
        return [e.id for e in self.state.egress if e.master == node] if self.state else []

    async def keys(self) -> OwnKeys | None:
        """Return the keys in use; see :class:`gateway_agent.agent.ports.LeaseDaemon`."""
        return await self._daemon.keys()

    async def drain(self, node: str) -> list[str]:
        """Hand every egress IP over, and take over none until :meth:`undrain`.

        Return the ids of the egress IPs that no other node has taken over within :data:`HANDOVER_TIMEOUT_S`.

        Raises OSError if the mark cannot be written.
        """
        self._drain_file.touch(mode=0o600)
        self._changed()
        await self._until(lambda: not self.held_by(node))
        return self.held_by(node)

    def undrain(self) -> None:
        """Let this node serve again."""
        self._drain_file.unlink(missing_ok=True)
        self._changed()

    async def hand_over(self, identity: str, to: str) -> None:
        """Hand an egress IP over to a node. Raises :class:`NotHandedOver`."""
        state = self.of(identity)
        if state is None or not state.master:
            raise NotHandedOver("it has no master that could hand it over", state.reason if state else "")
        move = HandoverRequest(identity, to, secrets.randbits(48))
        self._moves = (*self._moves, move)
        self._changed()
        await self._until(lambda: (now := self.of(identity)) is not None and now.master == to)
        self._moves = tuple(other for other in self._moves if other != move)
        after = self.of(identity)
        if after is None or after.master != to:
            member = next((m for m in self.state.members if m.node == to), None) if self.state else None
            reason = member.reason if member else "it is no egress node"
            raise NotHandedOver(f"{to} has not taken it over", reason or "see egressctl status on both nodes")

    async def released(self, identities: Collection[str], node: str, seconds: float) -> None:
        """Wait, for at most ``seconds``, until ``node`` is master of none of these egress IPs."""
        await self._until(lambda: not set(self.held_by(node)) & set(identities), seconds)

    async def _until(self, condition: Callable[[], bool], seconds: float = HANDOVER_TIMEOUT_S) -> None:
        async with self._news:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait_for(condition)
