"""A network of pure daemons in virtual time: true time is known, each node has a clock of its own.

Whatever the network and the machines may do to the daemons is a method here. After each event the
invariants are checked: no two nodes hold an unexpired lease, each by its own clock, on one id; and no two kernels let
out packets with one virtual address.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

from cni.kernel import ids
from gateway_agent.lease.effects import Effect
from gateway_agent.lease.ipc import EgressIPSpec, Facts, HandoverRequest, KeeperConfig, Peer
from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.lease.messages.outbox import Send
from gateway_agent.lease.node import LeaseNode
from gateway_agent.lease.node_state import Remember
from gateway_agent.lease.status import report
from gateway_agent.lease.tunnels import PointTunnel, QueueTunnel
from gateway_agent.lease.virtual_ips.serving import Open, Probe
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND
from gateway_agent.lease.voting.voter_set import Memory, VoterSet

from .simulated_kernel import Kernel

HEARTBEAT_NS = 100 * MILLISECOND
DURATION_NS = 500 * MILLISECOND
KEY = Keyring(Key.parse(b"only for the simulation"))
MAC = "02:00:00:00:00:99"
"""MAC of a foreign machine that has an address."""


class TwoMasters(AssertionError):
    """The invariant is broken."""


@dataclass
class Machine:
    """One node: its clock, and what of it survives the daemon's process."""

    name: str
    address: str
    egress: bool
    rate: float
    kernel: Kernel = field(default_factory=Kernel)
    daemon: LeaseNode | None = None
    memory: Memory | None = None
    stopped: bool = False
    inbox: list[tuple[bytes, str]] = field(default_factory=list)
    """Datagrams that have arrived while the node was stopped."""
    stops_before: type[Effect] | None = None
    """Kind of effect before which the node is to stop next."""
    left: list[Effect] = field(default_factory=list)
    """Effects that the node was about to carry out when it was stopped."""
    unready: set[str] = field(default_factory=set)
    behind: bool = False
    """True if the node is to take nothing over, but to keep its egress IPs."""
    stopping: bool = False
    drained: bool = False
    moves: tuple[HandoverRequest, ...] = ()
    agent: bool = True
    """True if the daemon gets signs of life of its agent."""
    wake_at: int = -1
    checked: dict[str, int] = field(default_factory=dict)
    """Ends of the leases that the node held when the invariants were checked last."""
    last_true: int = 0
    last_clock: int = 0

    def clock(self, true: int) -> int:
        return self.last_clock + int((true - self.last_true) * self.rate)

    def true(self, clock: int) -> int:
        """Return the first moment at which :meth:`clock` shows at least this."""
        return self.last_true + int((clock - self.last_clock) / self.rate) + 2


class Network:
    """Nodes ``g…`` are egress nodes, ``w…`` workers. ``seed`` decides delays, losses and clocks."""

    def __init__(
        self,
        egress: int,
        workers: int,
        ids: int = 1,
        seed: int = 0,
        loss: float = 0.0,
        availability_first: bool = False,
        heartbeat_ns: int = HEARTBEAT_NS,
        duration_ns: int = DURATION_NS,
        squatted: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.now = 0
        self.loss = loss
        self.max_delay_ns = 5 * MILLISECOND
        self.duplicates = 0.0
        self.lag: dict[str, int] = {}
        """Nanoseconds by which each node receives later."""
        self.blocked: set[tuple[str, str]] = set()
        self.carrying: dict[str, set[str]] = {}
        """Egress IPs that the pods of a node use, where that is not all of them."""
        self.ids = [f"{number:016x}" for number in range(1, ids + 1)]
        self.availability_first = availability_first
        self.heartbeat_ns, self.duration_ns = heartbeat_ns, duration_ns
        self.edited_durations: dict[str, int] = {}
        """``lease.duration`` of nodes that have another one than :attr:`duration_ns`."""
        self.failback = False
        self.published: VoterSet | None = None
        """The voter set that the cluster names."""
        self.lan = True
        """True if the nodes reach each other on the LAN of the virtual addresses; heartbeats have a path of their
        own.
        """
        self.squatted = set(map(self.address, self.ids)) if squatted else set()
        """Addresses that a foreign machine has too."""
        self.exclusive = True
        self.takeovers = 0
        self.sent: Counter[str] = Counter()
        """Datagrams by sender."""
        self.probes: Counter[str] = Counter()
        """Probes for a virtual address, by sender."""
        self._last: dict[str, str] = {}
        self._queue: list[tuple[int, int, str, tuple[bytes, str] | None, int]] = []
        self._order = 0
        names = [f"g{n}" for n in range(1, egress + 1)] + [f"w{n}" for n in range(1, workers + 1)]
        self.machines = {
            name: Machine(
                name,
                f"10.0.0.{n}",
                name.startswith("g"),
                rate=self.random.choice([0.99, 1.0, 1.01]),
                last_clock=self.random.randrange(10**15),
            )
            for n, name in enumerate(names, 1)
        }
        self._names = {machine.address: machine.name for machine in self.machines.values()}
        self.inventory = list(names)
        for name in names:
            self.start(name)

    # What may happen to machines

    def start(self, name: str) -> None:
        machine = self.machines[name]
        if machine.daemon is None:
            now = machine.clock(self.now)
            machine.stopping = False
            incarnation = self.random.getrandbits(64) | 1
            machine.kernel.close_all()
            machine.daemon = LeaseNode(self._config(machine), KEY, incarnation, machine.memory, now)
            self.configure(name)

    def crash(self, name: str) -> None:
        machine = self.machines[name]
        machine.daemon, machine.stopped, machine.stops_before = None, False, None
        machine.inbox.clear()
        machine.left.clear()

    def reboot(self, name: str) -> None:
        """Like a crash, and the files in the run directory are gone."""
        self.crash(name)
        self.machines[name].memory = None

    def stop(self, name: str) -> None:
        """SIGSTOP: what arrives is kept for later."""
        self.machines[name].stopped = self.machines[name].daemon is not None

    def stop_before(self, name: str, effect: type[Effect]) -> None:
        """SIGSTOP in front of the next effect of this kind: between a decision and what follows from it."""
        if self.machines[name].daemon is not None:
            self.machines[name].stops_before = effect

    def stop_daemon(self, name: str) -> None:
        """SIGTERM to the daemon itself."""
        machine = self.machines[name]
        if machine.daemon is not None:
            self._carry_out(machine, machine.daemon.stop(machine.clock(self.now)))

    def resume(self, name: str) -> None:
        machine = self.machines[name]
        if machine.stopped and machine.daemon is not None:
            machine.stopped = False
            left, machine.left = machine.left, []
            self._carry_out(machine, left)
            machine.daemon.attend(machine.clock(self.now))
            self._carry_out(machine, machine.daemon.wake(machine.clock(self.now)))
            waiting, machine.inbox = machine.inbox, []
            for data, source in waiting:
                machine.daemon.take(data, source, machine.clock(self.now))
            self._carry_out(machine, machine.daemon.settle(machine.clock(self.now)))
            self._check(machine)

    def configure(self, name: str) -> None:
        machine = self.machines[name]
        if machine.daemon is not None:
            self._carry_out(
                machine, machine.daemon.configure(self._config(machine), KEY, machine.clock(self.now))
            )
            self._check(machine)

    def set_rate(self, name: str, rate: float) -> None:
        machine = self.machines[name]
        machine.last_clock, machine.last_true = machine.clock(self.now), self.now
        machine.rate = rate
        self._plan(machine)

    def set_ready(self, name: str, identity: str, ready: bool) -> None:
        (self.machines[name].unready.discard if ready else self.machines[name].unready.add)(identity)
        self.configure(name)

    def drain(self, name: str, drained: bool = True) -> None:
        self.machines[name].drained = drained
        self.configure(name)

    def fall_behind(self, name: str, behind: bool = True) -> None:
        self.machines[name].behind = behind
        self.configure(name)

    def move(self, asked: str, identity: str, to: str) -> None:
        """Request a handover as an operator on node ``asked``."""
        self.machines[asked].moves += (HandoverRequest(identity, to, len(self.machines[asked].moves) + 1),)
        self.configure(asked)

    # What may happen to the network

    def cut(self, source: str, target: str) -> None:
        """One way only."""
        self.blocked.add((source, target))

    def isolate(self, *names: str) -> None:
        """Cuts these nodes off from the others, both ways."""
        for name in names:
            for other in self.machines:
                if other not in names:
                    self.blocked |= {(name, other), (other, name)}

    def heal(self) -> None:
        self.blocked.clear()

    def claim(self, receiver: str, address: str) -> None:
        """Let a machine that is no node claim the address toward a node."""
        machine = self.machines[receiver]
        if machine.daemon is not None:
            self._carry_out(machine, machine.daemon.claimed(address, MAC, "eth1", machine.clock(self.now)))

    # Time

    def run(self, duration_ns: int) -> None:
        end = self.now + duration_ns
        while self._queue and self._queue[0][0] <= end:
            self.now, _, name, message, wake_at = heapq.heappop(self._queue)
            machine = self.machines[name]
            if machine.daemon is None or (message is None and wake_at != machine.wake_at):
                continue
            if machine.stopped:
                if message is not None:
                    machine.inbox.append(message)
                continue
            clock = machine.clock(self.now)
            if machine.agent:
                machine.daemon.attend(clock)
            effects = (
                machine.daemon.wake(clock)
                if message is None
                else self.receive(machine.daemon, *message, clock)
            )
            self._carry_out(machine, effects)
            self._check(machine)
        self.now = end

    def receive(self, daemon: LeaseNode, data: bytes, source: str, clock: int) -> list[Effect]:
        """Return the effects of a datagram that has arrived at a daemon."""
        return daemon.receive(data, source, clock)

    def run_until(self, condition: object, limit_ns: int) -> int:
        """Run until ``condition()``; gives the time it took. Fails after ``limit_ns``."""
        assert callable(condition)
        start = self.now
        while not condition():
            assert self.now - start < limit_ns, f"not within {limit_ns / SECOND} s"
            self.run(MILLISECOND)
        return self.now - start

    # What is the case

    def holders(self, identity: str) -> list[str]:
        return [
            machine.name
            for machine in self.machines.values()
            if machine.daemon is not None
            and machine.daemon.ownership.holds(identity, machine.clock(self.now))
        ]

    @staticmethod
    def address(identity: str) -> str:
        return f"172.16.0.{int(identity, 16)}"

    def speakers(self, identity: str) -> list[str]:
        """Nodes whose kernel lets out packets with the virtual address."""
        return self._letting_out(self.address(identity))

    def _letting_out(self, address: str) -> list[str]:
        return [m.name for m in self.machines.values() if m.kernel.lets_out(address, m.clock(self.now))]

    def followed(self, identity: str) -> set[str]:
        """Return the masters that the running nodes follow."""
        daemons = [machine.daemon for machine in self.machines.values() if machine.daemon is not None]
        return {daemon.ownership.master_table.of(identity).master for daemon in daemons}

    @staticmethod
    def device(identity: str) -> str:
        return f"egw-{identity[-6:]}"

    def leads_to(self, name: str, identity: str) -> str:
        """Return the node that a tunnel leads to; or QUEUEING; empty before its first master."""
        mac = self.machines[name].kernel.tunnels.get(self.device(identity), "")
        nodes = {ids.node_mac(machine.address): machine.name for machine in self.machines.values()}
        return nodes.get(mac, mac)

    def agreed(self, identity: str) -> bool:
        """One master, who can speak, everybody knows it, and the tunnels of all others lead to it."""
        holders = self.holders(identity)
        if len(holders) != 1 or not self.followed(identity) == set(holders) == set(self.speakers(identity)):
            return False
        others = [m.name for m in self.machines.values() if m.daemon is not None and m.name not in holders]
        return all(self.leads_to(name, identity) in holders for name in others)

    def all_agreed(self) -> bool:
        return all(self.agreed(identity) for identity in self.ids)

    def describe(self) -> str:
        """For a failed assertion."""
        lines = [f"{self.now / SECOND:.3f} s, blocked {sorted(self.blocked)}"]
        for machine in self.machines.values():
            if machine.daemon is not None:
                daemon, now = machine.daemon, machine.clock(self.now)
                state = report(daemon, now)
                voters = f"voters {state.voter_set} {state.voters} accepted {daemon.voter_set.accepted}"
                members = [(m.node, m.alive, m.reason) for m in state.members]
                egress = [(e.master, e.epoch, e.state, e.reason) for e in state.egress]
                lines.append(f"{machine.name}: {egress} isolated {state.isolated} {voters} {members}")
        return "\n".join(lines)

    def _config(self, machine: Machine) -> KeeperConfig:
        egress = tuple(name for name in sorted(self.machines) if self.machines[name].egress)
        egress = tuple(name for name in egress if name in self.inventory)
        specs = tuple(
            EgressIPSpec(
                identity,
                "gw",
                self.address(identity),
                egress,
                ready=machine.name in egress
                and identity not in machine.unready
                and not machine.drained
                and not machine.behind,
                keeps=machine.behind and identity not in machine.unready and not machine.drained,
                reason="drained" if machine.drained else "eth1 is down",
                interface="eth1" if machine.name in egress else "",
                leaving=machine.drained or machine.name not in egress,
                failback=self.failback,
                carries=identity in self.carrying.get(machine.name, self.ids),
                device=self.device(identity),
            )
            for identity in self.ids
        )
        peers = tuple(
            Peer(m.name, m.address, m.egress) for m in self.machines.values() if m.name in self.inventory
        )
        duration_ns = self.edited_durations.get(machine.name, self.duration_ns)
        return KeeperConfig(
            machine.name,
            7947,
            "",
            self.heartbeat_ns,
            duration_ns,
            self.availability_first,
            peers,
            specs,
            machine.stopping,
            machine.moves,
            self.published,
            facts=Facts(4799, duration_ns, self.availability_first, ""),
        )

    def _carry_out(self, machine: Machine, effects: list[Effect]) -> None:
        answered = []
        for number, effect in enumerate(effects):
            if machine.stops_before is type(effect):
                machine.stopped, machine.stops_before = True, None
            if machine.stopped:
                machine.left += effects[number:]
                break
            if isinstance(effect, Remember):
                machine.memory = effect.memory
            elif isinstance(effect, PointTunnel | QueueTunnel):
                if not machine.kernel.lead(effect) and machine.daemon is not None:
                    machine.daemon.tunnel_refused(effect.device)
            elif not isinstance(effect, Send):
                machine.kernel.carry_out(effect, machine.clock(self.now))
                self.probes[machine.name] += isinstance(effect, Probe)
                self._check_speakers(effect)
                answered += (
                    [effect] if isinstance(effect, Probe) and self._is_answered(effect, machine) else []
                )
            elif (target := self._names.get(effect.address)) is not None:
                self.sent[machine.name] += 1
                copies = 1 + (self.random.random() < self.duplicates)
                for _ in range(copies):
                    if (machine.name, target) not in self.blocked and self.random.random() >= self.loss:
                        delay = self.random.randrange(50_000, max(self.max_delay_ns, 50_001))
                        delay += self.lag.get(target, 0)
                        self._push(self.now + delay, target, (effect.data, machine.address), 0)
        for probe in answered:
            if machine.daemon is not None:
                clock = machine.clock(self.now)
                self._carry_out(machine, machine.daemon.claimed(probe.address, MAC, probe.interface, clock))
        self._plan(machine)

    def _is_answered(self, probe: Probe, asking: Machine) -> bool:
        others = [m for m in self.machines.values() if m is not asking]
        speaks = any(m.kernel.lets_out(probe.address, m.clock(self.now)) for m in others)
        return probe.address in self.squatted or (self.lan and speaks)

    def _plan(self, machine: Machine) -> None:
        if machine.daemon is not None:
            wake_at = max(machine.true(machine.daemon.next_wake()), self.now + 1000)
            if wake_at != machine.wake_at:
                machine.wake_at = wake_at
                self._push(wake_at, machine.name, None, wake_at)

    def _push(self, at: int, name: str, message: tuple[bytes, str] | None, wake_at: int) -> None:
        self._order += 1
        heapq.heappush(self._queue, (at, self._order, name, message, wake_at))

    def _check_speakers(self, effect: Effect) -> None:
        # An overlap can only begin with an address that has just been opened.
        for address in effect.addresses if self.exclusive and isinstance(effect, Open) else ():
            speakers = self._letting_out(address)
            if len(speakers) > 1:
                raise TwoMasters(
                    f"{address} at {self.now / SECOND:.6f} s: {' and '.join(speakers)} can speak"
                )

    def _check(self, machine: Machine) -> None:
        # An overlap can only begin with a lease that the node which just ran has made.
        if machine.daemon is None:
            return
        held = machine.daemon.ownership.owner.held(machine.clock(self.now))
        ends = {identity: lease.until for identity, lease in held.items()}
        machine.checked, before = ends, machine.checked
        for identity, lease in held.items():
            if before.get(identity) == lease.until:
                continue
            if identity in self.ids and self._last.get(identity) != machine.name:
                self._last[identity] = machine.name
                self.takeovers += 1
            holders = self.holders(identity)
            if self.exclusive and holders != [machine.name]:
                raise TwoMasters(f"{identity} at {self.now / SECOND:.6f} s: {', '.join(holders)}")
