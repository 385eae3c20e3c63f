"""One master, whoever asks whom and when: the rules of voters and owners, tried at the worst moments."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gateway_agent.lease.voting.voter_set import PROPOSER_LEASE, VoterSet

from .adversarial_nodes import DURATION, ONE, AdversarialNetwork
from .effort import DEEP

NODES = ("a", "b", "c", "d")
RATES = (0.99, 1.01)


@dataclass
class History:
    """A world that ``rng`` drives. Messages and silences are as short as can be, or about as long as a lease."""

    rng: random.Random
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rates = {name: self.rng.choice(RATES) for name in NODES}
        self.world = AdversarialNetwork(self.rates, NODES[: self.rng.choice([2, 3, 3, 3, 3, 3])])
        self.world.run(2 * DURATION)
        self.side = list(NODES)

    def step(self) -> None:
        if self.rng.random() < 0.4:
            self.part()
        actions = [*3 * [self.ask], *2 * [self.reform], *2 * [self.wait], self.rarely]
        self.rng.choice(actions)()

    def part(self) -> None:
        """Partition the network: at random, once more, or the other way round."""
        rest = [name for name in NODES if name not in self.side]
        fewer = self.rng.sample(self.side, len(self.side) - 1)
        anew = self.rng.sample(NODES, 3)
        self.side = self.rng.choice([side for side in (anew, fewer, rest) if len(side) > 1])

    def ask(self) -> None:
        """Mostly within one side of a partition."""
        out = self.rng.choice([0, 0, 0, DURATION // 2])
        back = self.rng.choice([0, 0, DURATION // 2, DURATION * 9 // 10])
        self._ask(self.rng.choice(self.side), [ONE], out, back)

    def reform(self) -> None:
        """Let the proposer act until a change of the voter set may be decided."""
        proposer = self.rng.choice(self.side)
        for _ in range(self.rng.choice([2, 3, 4, 4, 4, 5])):
            self._ask(proposer, [PROPOSER_LEASE], 0, 0)

    def wait(self) -> None:
        ends = [end - self.world.now for end in self.world.ends()]
        pause = self.rng.choice([DURATION // 10, DURATION * 11 // 10, DURATION * 11 // 10, *ends])
        self.log.append(f"wait {pause}")
        self.world.run(pause)

    def rarely(self) -> None:
        """Do something that happens more rarely."""
        one, other = self.rng.sample(NODES, 2)
        what = self.rng.choice(["restart", "restart both", "share", "release"])
        self.log.append(f"{what} {one} {other}")
        if what == "share":
            self.world.share_voter_set(one, other)
        elif what == "release":
            self.world.release(one, self.side)
        else:
            for name in (one, other)[: 1 + (what == "restart both")]:
                self.world.restart(name)

    def _ask(self, name: str, ids: list[str], out: int, back: int) -> None:
        self.log.append(f"{name} asks for {ids} among {self.side}, {out} there, {back} back")
        self.world.ask(name, ids, self.side, out, back, self._wanted)

    def _wanted(self, current: VoterSet) -> VoterSet:
        """Return a change by one node, mostly toward a set that is this side of the partition."""
        here, members = {*self.side}, {*current.members}
        wanted = sorted(here - members) or sorted(members - here) or NODES
        changed = members ^ {self.rng.choice(wanted if self.rng.random() < 0.8 else NODES)}
        return VoterSet(current.version + 1, tuple(sorted(changed or current.members)))


@settings(
    max_examples=60_000 if DEEP else 3000,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(seed=st.integers(0, 2**64 - 1))
def test_no_two_leases_on_one_egress_ip_and_no_two_sets_of_one_version(seed: int) -> None:
    history = History(random.Random(seed))
    try:
        for _ in range(16):
            history.step()
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), str(history.rates), *history.log])) from None
