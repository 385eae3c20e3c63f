"""In which order what a master says and has comes and goes."""

from __future__ import annotations

from gateway_agent.lease.ipc import EgressIPSpec
from gateway_agent.lease.virtual_ips.serving import (
    AddAddress,
    Announce,
    Close,
    Effect,
    Open,
    Probe,
    RemoveAddress,
    VirtualIPs,
    open_ns,
)
from gateway_agent.lease.voting.protocol import SECOND, LeaseState

ADDRESS = "172.16.0.50"
DURATION = SECOND // 4


def follow(
    serving: VirtualIPs, now: int, seq: int = 0, interface: str = "eth1", duration: int = DURATION
) -> tuple[list[Effect], list[Effect]]:
    """``seq``: of the request that was granted; 0: nothing is held. ``duration``: of its lease."""
    tenure = LeaseState(
        epoch=1, first_seq=1, asked_at=0, until=now + duration, granted_seq=seq, duration_ns=duration
    )
    spec = EgressIPSpec("one", "partner", ADDRESS, ("g1", "g2"), ready=True, interface=interface)
    before: list[Effect] = []
    after = serving.reconcile({"one": tenure} if seq else {}, {"one": spec}, now, before)
    return before, after


def kinds(effects: list[Effect]) -> list[type[Effect]]:
    return [type(effect) for effect in effects]


def test_the_network_learns_before_the_workers_and_the_address_may_take_its_time() -> None:
    serving = VirtualIPs()
    before, after = follow(serving, 0, seq=1)
    assert kinds(before) == [Open, Announce]
    assert kinds(after) == [AddAddress]


def test_the_fence_is_closed_before_a_release_is_sent_and_the_address_goes_after_it() -> None:
    serving = VirtualIPs()
    follow(serving, 0, seq=1)
    before, after = follow(serving, SECOND)
    assert before == [Close((ADDRESS,))]
    assert after == [RemoveAddress(ADDRESS, "eth1")]
    assert follow(serving, SECOND) == ([], [])


def test_an_address_that_moves_to_another_interface_leaves_the_old_one_first() -> None:
    serving = VirtualIPs()
    follow(serving, 0, seq=1)
    before, after = follow(serving, 1, seq=1, interface="eth2")
    assert kinds(before) == [Close, Open, Announce]
    assert after == [RemoveAddress(ADDRESS, "eth1"), AddAddress(ADDRESS, "eth2")]


def test_whoever_else_has_it_is_asked_for_after_all_that_is_urgent() -> None:
    serving = VirtualIPs()
    follow(serving, 0, seq=1)
    before, after = follow(serving, 2 * SECOND, seq=2)
    assert kinds(before) == [Open, Announce]
    assert kinds(after) == [Probe]


def test_the_fence_is_open_for_as_long_as_the_request_asked_for() -> None:
    """Also if the length of leases is edited while the request is on its way."""
    serving = VirtualIPs()
    for seq, duration in ((1, DURATION), (2, 4 * DURATION), (3, DURATION)):
        before, _ = follow(serving, seq, seq=seq, duration=duration)
        opened = [effect for effect in before if isinstance(effect, Open)]
        assert opened == [Open(seq, (ADDRESS,), open_ns(duration))]


class _Compared(str):
    """An address that counts how often it is compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        _Compared.comparisons += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_loss_of_many_addresses_compares_none_with_all_others() -> None:
    count = 500
    serving, before = VirtualIPs(), list[Effect]()
    specs = {
        str(number): EgressIPSpec(
            str(number), "partner", _Compared(f"2001:db8::{number:x}"), ("g1",), ready=True, interface="eth1"
        )
        for number in range(count)
    }
    lease = LeaseState(epoch=1, first_seq=1, asked_at=0, until=DURATION, granted_seq=1, duration_ns=DURATION)
    serving.reconcile(dict.fromkeys(specs, lease), specs, 0, before)
    _Compared.comparisons = 0
    removed = serving.reconcile({}, specs, SECOND, before)
    assert len(removed) == count
    assert _Compared.comparisons <= 5 * count
