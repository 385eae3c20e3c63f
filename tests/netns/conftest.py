from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import datapath_lab, dual_stack_lab


@pytest.fixture(scope="session")
def standing_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[datapath_lab.Lab]:
    with datapath_lab.lab(tmp_path_factory.mktemp("datapath") / "service.log") as lab:
        yield lab


@pytest.fixture
def lab(standing_lab: datapath_lab.Lab) -> datapath_lab.Lab:
    """Return the data path lab: everything as at the beginning."""
    standing_lab.reset()
    return standing_lab


@pytest.fixture
def lab6(lab: datapath_lab.Lab) -> Iterator[datapath_lab.Lab]:
    """Yield the same with a virtual IPv6 address, which g1 has."""
    dual_stack_lab.stand(lab)
    dual_stack_lab.put(lab.nodes["g1"])
    yield lab
    for name in ("g1", "g2"):
        dual_stack_lab.take(lab.nodes[name])


@pytest.fixture(params=dual_stack_lab.SAME, ids=dual_stack_lab.NAME)
def tunnel(standing_lab: datapath_lab.Lab, request: pytest.FixtureRequest) -> Iterator[dual_stack_lab.Tunnel]:
    """Yield the tunnel to g1; its gateway's address is on g1."""
    made = dual_stack_lab.Tunnel(standing_lab, *request.param)
    dual_stack_lab.stand(standing_lab, underlay=made.underlay)
    dual_stack_lab.put(standing_lab.nodes["g1"])
    standing_lab.clear()
    yield made
    dual_stack_lab.take(standing_lab.nodes["g1"])
