"""The egress IPs that a node announces as able to serve."""

from __future__ import annotations

from gateway_agent.lease.egress_ips.egress_ip import EgressIPs
from gateway_agent.lease.ipc import EgressIPSpec
from gateway_agent.lease.mastership.ability import Ability
from gateway_agent.lease.placement.candidates import WARM_UP_NS
from gateway_agent.lease.placement.lateness import TOO_OFTEN, Lateness
from gateway_agent.lease.voting.protocol import SECOND

ONE, TWO = "0000000000000001", "0000000000000002"
START = 100 * SECOND


def test_a_node_ranks_last_for_what_it_has_become_ready_for_just_now() -> None:
    egress_ips, lateness = EgressIPs(), Lateness()
    ability = Ability("g1", egress_ips, lateness)
    egress_ips.record(ONE).ready_since = START
    egress_ips.record(TWO).ready_since = START + SECOND
    ability.configure({})
    assert ability.warming(START + SECOND) == (ONE, TWO)
    assert ability.warming(START + WARM_UP_NS) == (TWO,)
    assert ability.warming(START + SECOND + WARM_UP_NS) == ()


def test_a_late_node_ranks_last_for_all() -> None:
    egress_ips, lateness = EgressIPs(), Lateness()
    ability = Ability("g1", egress_ips, lateness)
    egress_ips.record(ONE).ready_since = 0
    ability.configure({})
    assert ability.warming(START) == ()
    for _ in range(TOO_OFTEN):
        lateness.stall(SECOND, SECOND // 4, START)
        lateness.lose(START)
    assert ability.warming(START) == (ONE,)


def test_a_node_names_why_it_cannot_serve_what_it_is_eligible_for() -> None:
    ability = Ability("g1", EgressIPs(), Lateness())
    specs = (
        EgressIPSpec(ONE, "partner", "172.16.0.50", ("g1",), reason="eth1 is down"),
        EgressIPSpec(TWO, "partner", "172.16.0.51", ("g2",), reason="not eligible"),
    )
    ability.configure({spec.id: spec for spec in specs})
    assert ability.known == (ONE, TWO)
    assert ability.unready == {ONE: "eth1 is down"}
