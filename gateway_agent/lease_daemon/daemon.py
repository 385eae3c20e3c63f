"""The loop of a lease daemon: sockets, clock and kernel around :class:`gateway_agent.lease.node.LeaseNode`.

A plain loop under real-time scheduling, without any slow work. The loop decides nothing: it passes inputs to the node,
and carries out the effects that the node returns.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..adapters.files.key_files import KeyFiles
from ..lease.effects import Effect
from ..lease.ipc import KeeperConfig
from ..lease.lifecycle import ORPHAN_NS
from ..lease.messages.outbox import Send
from ..lease.node import LeaseNode
from ..lease.node_state import Remember
from ..lease.status import report, unconfigured
from ..lease.tunnels import PointTunnel, QueueTunnel
from ..lease.virtual_ips.serving import AddAddress, RemoveAddress
from ..lease.voting.protocol import NEVER
from .daemon_lock import DaemonLock
from .ipc_server import AgentConnections
from .kernel.tunnel_neighbours import TunnelNeighbours
from .process import boottime, real_time
from .run_directory import RunDirectory
from .sockets.udp import Datagrams
from .unhandled_messages import UnhandledMessages

if TYPE_CHECKING:
    from .kernel.vip_kernel import VirtualAddresses
    from .sockets.stray_sockets import StrayListener

STATE_NS = 20_000_000
"""Shortest time between two states for the agent: with many egress IPs a state is long, and none is urgent."""


class LeaseDaemon:
    """Sockets, clock and kernel around one :class:`LeaseNode`."""

    def __init__(
        self,
        run_dir: Path,
        agents: AgentConnections,
        selector: selectors.BaseSelector,
        lock: DaemonLock,
        stays: bool,
    ) -> None:
        lock.answer(selector)
        self._directory = RunDirectory(run_dir, agents, lock, stays)
        self._stays = stays
        self._selector = selector
        self._agents = agents
        self._datagrams = Datagrams(selector, self._receive)
        self._node: LeaseNode | None = None
        self._applied: KeeperConfig | None = None
        self._decoded_last: tuple[bytes, KeeperConfig] | None = None
        self._keys = KeyFiles()
        self._tunnels = TunnelNeighbours()
        self._virtual: VirtualAddresses | None = None
        self._strays: StrayListener | None = None
        self._sent_revision = -1
        self._sent_at = 0
        self._started_at = boottime()
        self._problems: dict[str, str] = {}
        self._unhandled = UnhandledMessages()
        self._asked_to_stop = False
        self._wake_at = 0
        """The moment at which the node must be woken, as of the last wait."""

    def run(self) -> None:
        """Serve until every lease is handed over, after a request of the agent, the agent's end, or a SIGTERM.

        The same SIGTERM may reach the agent, which may be slow or killed: so the daemon hands over without the agent.
        """
        self._handle_sigterm()
        self._directory.write_pid()
        self._problems["scheduling"] = real_time()
        gc.freeze()
        while not self._finished(boottime()):
            for key, _ in self._selector.select(self._timeout_s()):
                key.data()
            for line in self._agents.lines():
                self._read_agents(line)
            now = boottime()
            if self._virtual is not None:
                self._virtual.resume(now)
            self._directory.check(now)
            if self._node is None:
                continue
            if self._asked_to_stop:
                self._asked_to_stop = False
                self._carry_out(self._node.stop(now))
            if self._agents.new():
                # A starting agent is alive, though it takes a while to send a configuration.
                self._node.attend(now)
            # Messages that arrived meanwhile may have made it earlier: then the next wait returns at once.
            if now >= self._wake_at:
                self._carry_out(self._node.wake(now))
            self._search(self._node, now)
            self._send_state()

    def _handle_sigterm(self) -> None:
        """Make a SIGTERM end the wait for the next event; the loop handles the signal."""

        def on_sigterm(*_: object) -> None:
            self._asked_to_stop = True

        wakeup_read, wakeup_write = socket.socketpair()
        for end in (wakeup_read, wakeup_write):
            end.setblocking(False)
        self._selector.register(wakeup_read, selectors.EVENT_READ, lambda: wakeup_read.recv(64))
        self._wakeup_write = wakeup_write
        signal.set_wakeup_fd(wakeup_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, on_sigterm)

    def _finished(self, now: int) -> bool:
        if self._node is None:
            return self._asked_to_stop or (not self._stays and now > self._started_at + ORPHAN_NS)
        return self._node.finished(now)

    def _timeout_s(self) -> float:
        """Return the seconds until the next timer."""
        unconfigured_until = NEVER if self._stays else self._started_at + ORPHAN_NS
        until = self._wake_at = self._node.next_wake() if self._node else unconfigured_until
        if self._has_news():
            until = min(until, self._sent_at + STATE_NS)
        if self._virtual is not None:
            until = min(until, self._virtual.next_wake())
        return max(0.0, min((until - boottime()) / 1e9, 1.0))

    def _read_agents(self, line: bytes) -> None:
        try:
            self._configure(self._decoded(line))
        except (OSError, ValueError) as error:
            self._problems["configuration"] = f"the lease daemon cannot follow the agent: {error}"
            if self._node is None:
                state = unconfigured(self._current_problems(boottime()))
                self._agents.broadcast(msgspec.json.encode(state) + b"\n")
        else:
            self._problems["configuration"] = ""
        self._sent_revision = -1

    def _decoded(self, line: bytes) -> KeeperConfig:
        """Return the configuration in a line. A sign of life repeats the last line, which may name thousands of nodes.

        Raises ValueError.
        """
        if self._decoded_last is None or self._decoded_last[0] != line:
            self._decoded_last = line, msgspec.json.decode(line, type=KeeperConfig)
        return self._decoded_last[1]

    def _configure(self, config: KeeperConfig) -> None:
        now = boottime()
        if self._node is not None or any(spec.address for spec in config.egress):
            self._virtual_addresses().retry_failed(self._node.virtual_ips.addresses() if self._node else {})
        other_keys = self._read_keys(config)
        keys = self._keys.ring
        if keys is None:
            raise ValueError(self._problems["key"])
        if self._node is None:
            incarnation = int.from_bytes(os.urandom(8), "big") >> 1 | 1
            self._node = LeaseNode(config, keys, incarnation, self._directory.load(), now)
        # The wall clock may have been set.
        self._node.attend(now, time.time_ns() - now)
        # All effects are carried out once more, and the kernel's refusals are noted anew.
        self._tunnels.problems.clear()
        if not other_keys and (config is self._applied or config == self._applied):
            # Each sign of life sets all entries again: another program may have changed them.
            self._carry_out(self._node.renew_tunnels(now))
            return
        mine = next((peer.address for peer in config.peers if peer.name == config.node), "")
        self._datagrams.bind(mine, config.port)
        if self._virtual is not None:
            self._virtual.watch((spec.address, spec.interface) for spec in config.egress if spec.interface)
        self._applied = config
        self._carry_out(self._node.configure(config, keys, now, time.time_ns() - now))

    def _read_keys(self, config: KeeperConfig) -> bool:
        """Return True if the keys have changed."""
        changed = self._keys.follow(config.key_file, config.accept_key_files)
        problem = self._keys.problem
        self._problems["key"] = f"the cluster key cannot be read: {problem}" if problem else ""
        return changed

    def _send_state(self) -> None:
        """Send the state to every connection if it has changed."""
        assert self._node is not None
        now = boottime()
        if not self._has_news() or now < self._sent_at + STATE_NS:
            return
        self._sent_revision, self._sent_at = self._revision(self._node), now
        failures = self._virtual.failures if self._virtual else ()
        state = report(
            self._node, now, self._current_problems(now), keys=self._agents.new(), failures=failures
        )
        self._agents.broadcast(msgspec.json.encode(state) + b"\n")

    def _current_problems(self, now: int) -> tuple[str, ...]:
        """Return the current problems that this process knows of."""
        found = [
            *self._problems.values(),
            *self._directory.problems.values(),
            *self._tunnels.problems.values(),
        ]
        found += self._virtual.problems if self._virtual else ()
        found.append(self._unhandled.problem(now))
        return tuple(filter(None, found))

    def _claimed(self, address: str, mac: str, interface: str) -> None:
        if self._node is not None:
            self._carry_out(self._node.claimed(address, mac, interface, boottime()))

    def _has_news(self) -> bool:
        return self._node is not None and (
            self._revision(self._node) != self._sent_revision or self._agents.new()
        )

    def _revision(self, node: LeaseNode) -> int:
        return node.revision + self._directory.revision

    def _receive(self, arrived: list[tuple[bytes, str]]) -> None:
        node, effects = self._node, list[Effect]()
        assert node is not None
        for datagram, source in arrived:
            with self._unhandled.reported(source):
                node.take(datagram, source, boottime())
        with self._unhandled.reported(arrived[-1][1]):
            effects = node.settle(boottime())
        self._carry_out(effects)

    def _search(self, node: LeaseNode, now: int) -> None:
        """Search for silent nodes: see :mod:`gateway_agent.lease.messages.strays`."""
        if self._strays is not None:
            self._strays.close_expired(now)
        questions = node.strays.questions(now)
        if not questions:
            return
        if self._strays is None:
            # Imported only here: the start of a daemon is part of a failover.
            from .sockets.stray_sockets import StrayListener

            refused = lambda address: node.strays.refused(address, boottime())  # noqa: E731
            self._strays = StrayListener(self._selector, refused, partial(self._arrived, node))
        config = node.config
        mine = next((peer.address for peer in config.peers if peer.name == config.node), "")
        tunnel_port = config.facts.tunnel_port if config.facts else 0
        try:
            self._strays.listen(mine, config.port, tunnel_port, now)
        except OSError as error:
            self._problems["search"] = f"nodes that are silent cannot be looked for: {error.strerror}"
        else:
            self._problems.pop("search", None)
        self._carry_out(questions)

    def _arrived(self, node: LeaseNode, datagram: bytes, source: str, port: int) -> None:
        with self._unhandled.reported(source):
            node.strays.arrived(datagram, source, port, boottime())

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        moved: list[AddAddress | RemoveAddress] = []
        for effect in effects:
            if isinstance(effect, Send):
                self._datagrams.send(effect.data, effect.address)
            elif isinstance(effect, Remember):
                self._directory.store(effect.memory)
            elif isinstance(effect, PointTunnel | QueueTunnel):
                if not self._tunnels.carry_out(effect) and self._node is not None:
                    self._node.tunnel_refused(effect.device)
            elif isinstance(effect, AddAddress | RemoveAddress):
                moved.append(effect)
            else:
                # If a fence cannot be closed, the process ends before it sends anything: the fence closes by its
                # time-out.
                self._virtual_addresses().carry_out(effect)
        if moved:
            self._virtual_addresses().move_all(moved)

    def _virtual_addresses(self) -> VirtualAddresses:
        if self._virtual is None:
            # Imported only here: the start of a daemon is part of a failover, and basic mode does not need the module.
            from .kernel.vip_kernel import VirtualAddresses

            self._virtual = VirtualAddresses(self._selector, self._claimed)
        return self._virtual
