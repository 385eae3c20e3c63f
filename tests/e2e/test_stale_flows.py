"""Flows that a master's kernel knows by an address which is no longer theirs: it forgets them, and they go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.flow import Flow
from ..lab.lab import SELECTED, Lab
from ..lab.silence import longest
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

ADDRESS = "172.16.0.50"
OTHERS = ("172.16.0.78", "172.16.0.43")


@pytest.fixture
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_stale_flows", topology.separate(workers=1, gateways=1)) as made:
        yield made


def test_a_flow_goes_on_by_the_new_address_when_its_gateway_gets_another_mode(lab: Lab) -> None:
    pod = lab.nodes["w1"].pod("backend-1", BACKEND)
    with lab.capture() as capture, Flow(pod.machine, lab.directory / "flow.log", SELECTED) as flow:
        until(
            lambda: capture.sources(SELECTED) == {lab.nodes["g1"].host.egress_ip},
            "it goes by the master's address",
        )
        lab.publish("objects", documents.virtual_ip([ADDRESS], GATEWAY))
        until(lambda: ADDRESS in capture.sources(SELECTED), "the open flow goes by the virtual address")
        with lab.probing(pod) as probing:
            before = len(capture.packets(SELECTED))
            until(lambda: len(capture.packets(SELECTED)) > before + 2000, "many new ports")
            probes = probing.stop()
        assert {packet.source for packet in capture.packets(SELECTED)[before:]} == {ADDRESS}
        assert flow.stop()[-1].address == ADDRESS
    assert longest(probes).lost == 0


def test_flows_go_on_when_their_pods_get_other_addresses(lab: Lab) -> None:
    lab.publish("objects", documents.virtual_ip([ADDRESS], GATEWAY))
    lab.wait_settled(GATEWAY, 20)
    pods = [lab.nodes["w1"].pod(f"backend-{number}", BACKEND) for number in range(4)]
    flows = [Flow(pod.machine, lab.directory / "flow.log", SELECTED) for pod in pods]
    try:
        with lab.capture() as capture:
            until(
                lambda: len({packet.source_port for packet in capture.packets(SELECTED)}) == len(pods),
                "all go",
            )
            lab.publish("objects", documents.virtual_ip([ADDRESS, *OTHERS], GATEWAY))
            until(lambda: len(capture.sources(SELECTED)) > 1, "some pods have another address")
            wanted = [pod.request(SELECTED).address for pod in pods]
            assert len(set(wanted)) > 1
            until(
                lambda: {p.source for p in capture.packets(SELECTED)[-200:]} == set(wanted),
                "all go by theirs",
            )
        assert [flow.stop()[-1].address for flow in flows] == wanted
    finally:
        for flow in flows:
            flow.close()


def test_a_flow_goes_on_when_its_pod_is_selected_no_more_and_again(lab: Lab) -> None:
    pod = lab.nodes["w1"].pod("backend-1", BACKEND)
    gateway, policy = documents.basic_mode(lab.topology.egress_interface, GATEWAY)
    worker, served = lab.nodes["w1"].host.ip, lab.nodes["g1"].host.egress_ip
    with lab.capture() as capture, Flow(pod.machine, lab.directory / "flow.log", SELECTED) as flow:
        for objects, address in (
            ([gateway, policy], served),
            ([gateway], worker),
            ([gateway, policy], served),
        ):
            lab.publish("objects", objects)
            until(
                lambda a=address: {packet.source for packet in capture.packets(SELECTED)[-100:]} == {a},  # type: ignore[misc]
                f"the open flow goes by {address}",
            )
        assert flow.stop()[-1].address == served
