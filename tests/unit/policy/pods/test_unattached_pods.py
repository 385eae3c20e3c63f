"""Which pods nothing is known of, and which records nobody will ever delete."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway_agent.kubernetes.objects import InventoryBuilder
from gateway_agent.manifests.model import Inventory, RunningPod
from gateway_agent.policy.pods.unattached_pods import (
    MARGIN_S,
    MAX_LATEST,
    BesideLog,
    StartedBeside,
    adopted,
    current,
    held,
    outlived,
    problem,
    unknown,
)

from ...kubernetes.test_objects import of_api

POD = RunningPod("prod", "a", "uid-a", ("10.244.1.5", "fd00::5"))
RECORD = adopted(POD, "veth1")
KNOWN = replace(RECORD, container_id="c0ffee", network="net")


def test_a_pod_without_a_record_is_unknown() -> None:
    inventory = Inventory(running=(POD,))
    assert unknown(inventory, ()) == (POD,)
    assert unknown(inventory, (RECORD,)) == unknown(inventory, (KNOWN,)) == ()
    assert unknown(inventory, (replace(KNOWN, uid=""),)) == ()
    assert unknown(inventory, (replace(RECORD, namespace="other"),)) == (POD,)
    assert unknown(inventory, (replace(KNOWN, uid="another"),)) == (POD,)


def test_only_a_guard_that_was_set_long_before_has_surely_held_a_pod() -> None:
    assert held(1000.0, float("-inf"))
    assert held(1000.0, 1000.0 - MARGIN_S)
    assert not held(1000.0, 1001.0 - MARGIN_S)
    assert not held(1000.0, float("inf"))


def test_pods_beside_the_plugin_are_counted_and_the_last_ones_are_named() -> None:
    log = BesideLog()
    for number in range(MAX_LATEST + 1):
        log = log.plus(StartedBeside("prod", f"web-{number}", "uid", float(number), number % 2 == 0))
    assert (log.held, log.loose) == (MAX_LATEST // 2 + 1, MAX_LATEST // 2)
    assert [log.latest[0].name, log.latest[-1].name] == ["web-1", f"web-{MAX_LATEST}"]


def test_a_record_says_whose_it_is_and_is_no_runtimes() -> None:
    assert (RECORD.container_id, RECORD.host_interface, RECORD.group) == ("adopted-uid-a", "veth1", 0)
    assert (RECORD.labels, RECORD.addresses) == (None, POD.addresses)


@pytest.mark.parametrize(
    ("running", "records", "gone"),
    [
        ((POD,), (RECORD,), ()),
        ((), (RECORD,), (RECORD,)),
        ((replace(POD, uid="another"),), (RECORD,), (RECORD,)),
        ((POD,), (RECORD, KNOWN), (RECORD,)),
        ((POD,), (RECORD, replace(KNOWN, uid="")), (RECORD,)),
        ((POD,), (RECORD, replace(KNOWN, uid="another")), ()),
        ((), (KNOWN,), ()),
    ],
    ids=[
        "it runs",
        "it is gone",
        "another of its name",
        "its CNI call came",
        "a CNI call without a uid came",
        "the CNI call of another came",
        "not adopted",
    ],
)
def test_records_that_outlive_their_pod(running: Any, records: Any, gone: Any) -> None:
    assert outlived(Inventory(running=running), records) == gone


@pytest.mark.parametrize(
    ("uids", "records", "known"),
    [
        ({("prod", "a"): "new"}, ("new", "old"), ("new",)),
        ({("prod", "a"): "new"}, ("new",), ()),
        ({("prod", "a"): "new"}, ("older", "old"), ()),
        ({}, ("new", "old"), ()),
        ({("prod", "a"): "new"}, ("new", ""), ("new",)),
    ],
)
def test_of_two_records_of_one_interface_the_store_knows_one(uids: Any, records: Any, known: Any) -> None:
    made = [replace(KNOWN, container_id=f"c-{uid}", uid=uid) for uid in records]
    elsewhere = replace(KNOWN, container_id="c", uid="new", host_interface="veth2")
    found = current(Inventory(uids=uids), [*made, elsewhere])
    assert tuple(record.uid for record in found) == known


def test_who_cannot_be_found_is_named() -> None:
    assert str(problem(POD)) == (
        "pod prod/a: was started before the plugin was installed, and no veth leads to 10.244.1.5, "
        "fd00::5: it uses no gateway "
        "(restart it, so that the plugin is called for it)"
    )


@pytest.mark.parametrize(
    ("spec", "status", "runs"),
    [
        ({}, {"phase": "Running", "podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd00::5"}]}, True),
        ({"hostNetwork": True}, {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}, False),
        ({}, {"phase": "Succeeded", "podIPs": [{"ip": "10.244.1.5"}]}, False),
        ({}, {"phase": "Pending"}, False),
        ({}, {}, False),
    ],
)
def test_pods_of_the_cluster_that_have_addresses(spec: Any, status: Any, runs: bool) -> None:
    document = {
        "metadata": {"name": "a", "namespace": "prod", "uid": "uid-a"},
        "spec": spec,
        "status": status,
    }
    assert InventoryBuilder().inventory([of_api("Pod", document)]).running == ((POD,) if runs else ())
