"""All addresses but some, as the fewest prefixes."""

from __future__ import annotations

import netaddr
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.manifests.prefixes import complement
from gateway_agent.show.explain import _destinations

nets = st.builds(lambda base, length: str(netaddr.IPNetwork((base, length), version=4).cidr),
                 st.integers(0, 2**32 - 1), st.integers(0, 32))  # fmt: skip


@given(st.lists(nets, max_size=8))
def test_it_is_what_is_left_of_all(taken: list[str]) -> None:
    expected = netaddr.IPSet(["0.0.0.0/0"]) - netaddr.IPSet(taken)
    assert complement(4, taken) == [str(net) for net in expected.iter_cidrs()]


def test_ipv6_too() -> None:
    assert complement(6, ["8000::/1"]) == ["::/1"]


def test_explain_names_the_exceptions_if_they_are_fewer() -> None:
    private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
    reached = complement(4, private)
    assert len(reached) > len(private)
    assert _destinations(reached, 4) == {
        "step": "destination", "result": "all of IPv4 but", "reason": ", ".join(private),
    }  # fmt: skip
    assert _destinations(["0.0.0.0/0"], 4)["result"] == "all of IPv4"
    assert _destinations(["203.0.113.0/24"], 4) == {
        "step": "destination", "result": "1 prefix", "reason": "203.0.113.0/24",
    }  # fmt: skip
