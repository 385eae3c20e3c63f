"""Each module has its unit tests at its place, or is in a list with the test that reaches it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest

from ..tools import house, imports
from ..tools.tested_elsewhere import TESTED_ELSEWHERE

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = (
    "cni/__main__.py",
    "gateway_agent/__main__.py",
    "gateway_agent/cni_install/command_line.py",
    "gateway_agent/connection_log/__main__.py",
    "gateway_agent/ctl/__main__.py",
    "gateway_agent/lease_daemon/__main__.py",
    "gateway_agent/node_install/__main__.py",
    "gateway_agent/node_install/kernel_trial.py",
)
"""The programs that labs run."""
FAR = 30
"""Hops by which each module of a program is reached."""
NEAR = 1
"""Hops from what a unit test imports to what it tests: it calls the one, and the other does the work."""


@lru_cache
def programs() -> frozenset[str]:
    """Return all modules of the programs."""
    return frozenset(name for program in PROGRAMS for name in imports.reached(REPOSITORY, Path(program), FAR))


def test_the_list_has_each_module_without_a_test_of_its_name_and_no_other() -> None:
    assert sorted(TESTED_ELSEWHERE) == [str(path) for path in house.unmirrored(REPOSITORY)]


@pytest.mark.parametrize(("module", "test"), TESTED_ELSEWHERE.items())
def test_each_test_of_the_list_reaches_its_module(module: str, test: str) -> None:
    path = Path("tests", test)
    assert (REPOSITORY / path).is_file()
    if test.startswith("unit/"):
        found = imports.reached(REPOSITORY, path, NEAR)
    else:
        found = imports.reached(REPOSITORY, path, FAR)
        found |= programs()
    assert imports.module_name(Path(module)) in found or (module in PROGRAMS and not test.startswith("unit/"))
