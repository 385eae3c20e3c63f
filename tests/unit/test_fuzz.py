"""Every fuzz target for a moment; ``FUZZ_SECONDS=60`` in the environment makes it a minute each.

``./install.sh test`` runs each for 20 seconds beside the other tests: ``python -m tests.fuzz``.
"""

from __future__ import annotations

import contextlib
import json
import os

import pytest

from cni import contract
from gateway_agent import config
from tests.fuzz import calls, manifests, stored
from tests.fuzz.__main__ import TARGETS, run
from tests.fuzz.values import HOSTILE, places, put

SECONDS = float(os.environ.get("FUZZ_SECONDS", "1"))
SEED = int(os.environ.get("FUZZ_SEED", "10"))


@pytest.mark.parametrize("name", TARGETS)
def test_random_input_is_refused_with_a_text_or_valid(name: str) -> None:
    assert run(TARGETS[name], SECONDS, SEED)


@pytest.mark.parametrize("case", manifests.CASES, ids=lambda case: case["kind"])
def test_every_field_of_an_object_takes_every_hostile_value(case: dict[str, object]) -> None:
    for at in places(case):
        for value in HOSTILE:
            manifests.check(put(case, at, value))


@pytest.mark.parametrize("raw", calls.RAW, ids=lambda raw: repr(raw[:12]))
@pytest.mark.parametrize("kind", ["ADD", "VERSION", "", "control"])
def test_what_is_no_request_is_answered_at_the_socket(raw: bytes, kind: str) -> None:
    environment = tuple(map(calls.raw, {**calls.ENVIRONMENT, "CNI_COMMAND": kind}.values()))
    control = contract.CONTROL + b"\0" + raw
    calls.check_agent([control if kind == "control" else contract.cni_request(environment, raw), raw])


@pytest.mark.parametrize("raw", calls.RAW, ids=lambda raw: repr(raw[:12]))
def test_a_damaged_file_or_line_ends_no_process(raw: bytes) -> None:
    stored.check_plan(raw)
    stored.check_record(raw)
    stored.check_memory(raw)
    stored.check_last_known(raw)
    for line in (raw, b'{"type": "ADDED", "object": {"metadata": {"x": ' + raw + b"}}}"):
        stored.check_watch("EgressGatewayPolicy", line)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "c\0d"])
def test_no_call_writes_outside_the_run_directory(name: str) -> None:
    environment = tuple(map(calls.raw, {**calls.ENVIRONMENT, "CNI_CONTAINERID": name}.values()))
    calls.check_agent([contract.cni_request(environment, json.dumps(calls.CONFIGURATION).encode())])


def test_every_field_of_a_plan_takes_every_hostile_value() -> None:
    for at in places(stored.PLAN):
        for value in HOSTILE:
            with contextlib.suppress(TypeError):
                stored.check_plan(json.dumps(put(stored.PLAN, at, value)).encode())


def test_the_configuration_that_is_damaged_has_every_key_and_is_valid() -> None:
    assert set(manifests.CONFIGURATION) == set(config.KEYS)
    config.parse("agent.yaml", json.dumps(manifests.CONFIGURATION), "w1")


def test_every_field_of_the_configuration_takes_every_hostile_value() -> None:
    for at in places(manifests.CONFIGURATION):
        for value in HOSTILE:
            manifests.check_configuration(put(manifests.CONFIGURATION, at, value))
