"""The observers, before anything is proved by them: they find two owners where there are two, and only there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from ..lab import topology
from ..lab.lab import Lab
from ..lab.observing import Observers
from ..lab.overlap import longest_overlap, takeovers
from ..lab.waiting import until

ADDRESS = topology.VIRTUAL
NODES = ("g1", "g2")
WIRE = "eth1"
FENCE = f"""\
table netdev lab_fence {{
    chain out {{
        type filter hook egress device "{WIRE}" priority filter; policy accept;
        ip saddr {ADDRESS} drop
        arp saddr ip {ADDRESS} drop
    }}
}}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(topology.separate(workers=0, gateways=2)) as made:
        yield made


def spoke(observers: Observers, node: str, frames: int) -> bool:
    """Whether this many of its frames have arrived since the last call of ``forget``."""
    return sum(frame.node == node for frame in observers.frames()) >= frames


def owners(observers: Observers) -> tuple[str, ...]:
    return observers.owners(50).get(ADDRESS, ())


def test_two_that_may_speak_are_two_owners(lab: Lab) -> None:
    with Observers(lab, NODES, [ADDRESS]) as observers:
        for node in NODES:
            until(partial(spoke, observers, node, 400), f"{node} speaks")
        attempts = observers.end()
        found = observers.overlaps()
        frames = observers.frames()
    assert longest_overlap(found) > 50
    for node in NODES:
        # Nothing of what the kernel took is missing in the capture.
        assert sum(frame.node == node for frame in frames) == attempts[node].accepted[ADDRESS]
        assert {frame.kind for frame in frames if frame.node == node} == {"probe", "claim"}


def test_a_fence_silences_whoever_tries(lab: Lab) -> None:
    fenced = lab.machines["g2"]
    with Observers(lab, NODES, [ADDRESS]) as observers:
        for node in NODES:
            until(partial(spoke, observers, node, 100), f"{node} speaks")
        fenced.run("nft", "-f", "-", text=FENCE)
        try:
            observers.forget()
            until(partial(spoke, observers, "g1", 400), "g1 speaks")
            assert not spoke(observers, "g2", 1)
            assert observers.overlaps() == []
            attempts = observers.end()["g2"]
        finally:
            fenced.run("nft", "delete", "table", "netdev", "lab_fence")
    # It tried all the while, about as often as the other was heard.
    assert attempts.attempts - attempts.accepted[ADDRESS] > 200


def test_a_fair_observer_speaks_where_the_address_is(lab: Lab) -> None:
    old, new = (lab.machines[node] for node in NODES)
    with Observers(lab, NODES, [ADDRESS], held=True) as observers:
        assert owners(observers) == ()
        old.ip(f"address add {ADDRESS}/32 dev {WIRE}")
        until(lambda: owners(observers) == ("g1",), "g1 speaks")
        old.ip(f"address del {ADDRESS}/32 dev {WIRE}")
        new.ip(f"address add {ADDRESS}/32 dev {WIRE}")
        until(lambda: owners(observers) == ("g2",), "g2 speaks")
        new.ip(f"address del {ADDRESS}/32 dev {WIRE}")
        until(lambda: owners(observers) == (), "nobody speaks")
        assert observers.overlaps() == []
        assert [(change.old, change.new) for change in takeovers(observers.frames())] == [("g1", "g2")]


def test_no_neighbour_believes_an_observer(lab: Lab) -> None:
    router, owner = lab.machines["router"], lab.machines["g1"]
    owner.ip(f"address add {ADDRESS}/32 dev {WIRE}")
    try:
        router.run("ping", "-c", "1", "-W", "2", ADDRESS)
        before = neighbour(lab)
        with Observers(lab, ["g2"], [ADDRESS]) as observers:
            until(partial(spoke, observers, "g2", 400), "g2 claims the address")
            assert any(frame.kind == "claim" for frame in observers.frames())
        assert neighbour(lab) == before
    finally:
        owner.ip(f"address del {ADDRESS}/32 dev {WIRE}")


def neighbour(lab: Lab) -> str:
    """Return the router's MAC for the address."""
    message = lab.machines["router"].run("ip", "neighbour", "show", ADDRESS).split()
    return message[message.index("lladdr") + 1]


def test_it_goes_on_after_its_interface_was_down(lab: Lab) -> None:
    machine = lab.machines["g1"]
    with Observers(lab, ["g1"], [ADDRESS]) as observers:
        until(lambda: owners(observers) == ("g1",), "it speaks")
        machine.ip(f"link set {WIRE} down")
        until(lambda: owners(observers) == (), "it is silent")
        machine.ip(f"link set {WIRE} up")
        until(lambda: owners(observers) == ("g1",), "it speaks again")
        lab.cut("g1")
        until(lambda: owners(observers) == (), "it is silent")
        lab.mend("g1")
        until(lambda: owners(observers) == ("g1",), "it speaks again")


def test_it_finds_an_interface_that_comes_back_as_another(lab: Lab) -> None:
    machine, lan = lab.machines["g2"], lab.machines["lan"]
    with Observers(lab, ["g2"], [ADDRESS]) as observers:
        until(lambda: owners(observers) == ("g2",), "it speaks")
        machine.ip(f"link set {WIRE} name {WIRE}-old", f"link set {WIRE}-old down")
        until(lambda: owners(observers) == (), "it is silent")
        machine.ip(f"link set {WIRE}-old name {WIRE}", f"link set {WIRE} address 0a:00:00:00:00:99 up")
        until(lambda: owners(observers) == ("g2",), "it speaks again")
    assert "g2-eth1" in lan.run("ip", "link", "show", "master", "br-egress")


def test_the_death_of_its_node_does_not_end_it(lab: Lab) -> None:
    with Observers(lab, ["g1"], [ADDRESS]) as observers:
        lab.nodes["g1"].die()
        observers.forget()
        until(partial(spoke, observers, "g1", 100), "it speaks")
