"""Every fuzz target for a few seconds; ``FUZZ_SECONDS=60`` in the environment makes it a minute each."""

from __future__ import annotations

import os

import pytest

from tests.fuzz import manifests
from tests.fuzz.__main__ import TARGETS, run
from tests.fuzz.values import HOSTILE, places, put

SECONDS = float(os.environ.get("FUZZ_SECONDS", "5"))
SEED = int(os.environ.get("FUZZ_SEED", "10"))


@pytest.mark.parametrize("name", TARGETS)
def test_random_input_is_refused_in_words_or_valid(name: str) -> None:
    assert run(TARGETS[name], SECONDS, SEED)


@pytest.mark.parametrize("case", manifests.CASES, ids=lambda case: case["kind"])
def test_every_field_of_an_object_takes_every_hostile_value(case: dict[str, object]) -> None:
    for at in places(case):
        for value in HOSTILE:
            manifests.check(put(case, at, value))


def test_every_field_of_the_configuration_takes_every_hostile_value() -> None:
    for at in places(manifests.CONFIGURATION):
        for value in HOSTILE:
            manifests.check_configuration(put(manifests.CONFIGURATION, at, value))
