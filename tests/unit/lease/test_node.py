"""The whole protocol in virtual time: whatever happens, never two masters; and soon after it ends, one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from gateway_agent.lease.messages.outbox import Send
from gateway_agent.lease.virtual_ips.serving import Close, Open, Ticket
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND
from gateway_agent.lease.voting.voter_set import PROPOSER_LEASE

from .effort import DEEP
from .simulation import DURATION_NS, Network

NODES = ["g1", "g2", "g3", "g4", "w1", "w2"]
MASTER, PROPOSER = "the master", "the proposer"
"""Roles of whichever node has them when the step is played: most failures come from steps around them."""
node = st.sampled_from([*NODES, MASTER, MASTER, MASTER, PROPOSER])


@dataclass(frozen=True)
class Step:
    """What happens, and how long the network runs on after it."""

    what: str
    arguments: tuple[Any, ...]
    then_ms: int


def step(what: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    # A lease lives for 500 ms here. A dead voter is replaced after 10 s.
    pause = st.one_of(*4 * [st.integers(0, 700)], st.sampled_from([0, 1_500, 3_000, 13_000]))
    return st.builds(Step, st.just(what), st.tuples(*arguments), pause)


steps = st.one_of(
    step("crash", node),
    step("start", node),
    step("restart", node),
    step("reboot_one", node),
    step("stop", node),
    step("stop_before", st.just(MASTER), st.sampled_from([Ticket, Open, Close, Send])),
    step("resume", node),
    step("cut", node, node),
    step("isolate", node),
    step("isolate", node, node),
    step("heal"),
    step("raise_all"),
    step("clock", node, st.sampled_from([0.99, 1.0, 1.01])),
    step("set_ready", node, st.booleans()),
    step("loss", st.sampled_from([0.0, 0.1, 0.4])),
    step("lag", st.just(MASTER), st.sampled_from([100, 300, 450])),
    step("strand", st.just(MASTER), st.booleans()),
    step("race", st.just(MASTER)),
    step("delay", st.sampled_from([1, 20, 100, 200, 700])),
    step("duplicates", st.sampled_from([0.0, 0.3])),
    step("inventory", node, st.booleans()),
    step("leave", node),
    step("drain", node, st.booleans()),
    step("hand_over", node, node),
)


class Scenario:
    """Plays steps on a network of up to six nodes."""

    def __init__(self, egress: int, workers: int, seed: int) -> None:
        self.network = Network(egress, workers, seed=seed)
        self.rebooted = 0

    def play(self, step: Step) -> None:
        """Play a step; a step about a node that this network does not have is a pause."""
        network = self.network
        names = {MASTER: network.holders(network.ids[0]), PROPOSER: network.holders(PROPOSER_LEASE)}
        arguments = [names[a][:1] or [""] if a in names else [a] for a in step.arguments]
        known = [argument for (argument,) in arguments]
        if all(a in network.machines for a in known if isinstance(a, str)):
            (getattr(self, step.what, None) or getattr(network, step.what))(*known)
        network.run(step.then_ms * MILLISECOND)

    def restart(self, name: str) -> None:
        self.network.crash(name)
        self.network.start(name)

    def reboot_one(self, name: str) -> None:
        # A majority of voters that forget at one time is beyond what the voter set promises to survive.
        if not self.rebooted:
            self.rebooted += 1
            self.network.reboot(name)

    def lag(self, name: str, milliseconds: int) -> None:
        """Deliver only old answers to the node."""
        self.network.lag = {name: milliseconds * MILLISECOND}
        self.network.run(2 * DURATION_NS)
        self.network.isolate(name)

    def strand(self, name: str, forgetful: bool) -> None:
        """Cut off the node with a fresh lease; ``forgetful``: the voters restart at the same moment."""
        daemon = self.network.machines[name].daemon
        self.network.isolate(name)
        voters = daemon.voter_set.current.members if daemon and forgetful else ()
        for voter in voters:
            if voter != name:
                self.restart(voter)

    def race(self, name: str) -> None:
        """Cut off the node while its clock is as slow as allowed, and the others' as fast."""
        self.network.max_delay_ns = MILLISECOND
        for machine in self.network.machines:
            self.network.set_rate(machine, 0.99 if machine == name else 1.01)
        self.network.run(2 * DURATION_NS)
        self.network.isolate(name)

    def set_ready(self, name: str, ready: bool) -> None:
        self.network.set_ready(name, self.network.ids[0], ready)

    def clock(self, name: str, rate: float) -> None:
        self.network.set_rate(name, rate)

    def loss(self, probability: float) -> None:
        self.network.loss = probability

    def delay(self, milliseconds: int) -> None:
        self.network.max_delay_ns = milliseconds * MILLISECOND

    def duplicates(self, probability: float) -> None:
        self.network.duplicates = probability

    def inventory(self, name: str, present: bool) -> None:
        network = self.network
        if not present and name in network.inventory and len(network.inventory) > 3:
            network.inventory.remove(name)
        if present and name not in network.inventory:
            network.inventory.append(name)
        for machine in network.machines:
            network.configure(machine)

    def drain(self, name: str, drained: bool) -> None:
        self.network.drain(name, drained)

    def hand_over(self, asked: str, to: str) -> None:
        self.network.move(asked, self.network.ids[0], to)

    def leave(self, name: str) -> None:
        self.network.machines[name].stopping = True
        self.network.configure(name)

    def raise_all(self) -> None:
        for name in self.network.machines:
            self.network.start(name)
            self.network.resume(name)

    def mend(self) -> None:
        """Make everything whole again."""
        network = self.network
        network.heal()
        network.loss = network.duplicates = 0.0
        network.lag.clear()
        network.max_delay_ns = 5 * MILLISECOND
        network.inventory = list(network.machines)
        for name, machine in network.machines.items():
            if machine.stopping:
                network.crash(name)
            machine.unready.clear()
            machine.drained = False
            machine.stops_before = None
            network.start(name)
            network.resume(name)
            network.configure(name)


def examples(number: int) -> settings:
    return settings(
        max_examples=settings().max_examples if DEEP else number,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


networks = st.builds(Scenario, st.integers(2, 4), st.integers(1, 2), st.integers(0, 2**32))


@examples(70)
@given(
    scenario=networks,
    warm_ms=st.sampled_from([0, 1_500]),
    delay_ms=st.sampled_from([1, 5, 30, 100]),
    steps=st.lists(steps, min_size=1, max_size=12),
)
def test_there_are_never_two_masters(
    scenario: Scenario, warm_ms: int, delay_ms: int, steps: list[Step]
) -> None:
    """The simulation checks after each of its events."""
    scenario.network.run(warm_ms * MILLISECOND)
    scenario.delay(delay_ms)
    for each in steps:
        scenario.play(each)
    scenario.network.run(SECOND)
    event(f"takeovers: {min(scenario.network.takeovers, 5)}")


@examples(15)
@given(scenario=networks, steps=st.lists(steps, max_size=40))
def test_soon_after_the_network_is_whole_there_is_one_master(scenario: Scenario, steps: list[Step]) -> None:
    for each in steps:
        scenario.play(each)
    scenario.mend()
    scenario.network.run(12 * SECOND)
    assert scenario.network.all_agreed(), scenario.network.describe()
    before = scenario.network.takeovers
    scenario.network.run(2 * SECOND)
    assert scenario.network.takeovers == before, "a healthy master was replaced"
