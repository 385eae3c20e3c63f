from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import datapath_lab, dual_stack_lab


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[datapath_lab.Lab]:
    with datapath_lab.lab(tmp_path_factory.mktemp("datapath") / "service.log") as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: datapath_lab.Lab) -> datapath_lab.Lab:
    """Return the data path lab: everything as at the beginning."""
    shared_lab.reset()
    return shared_lab


@pytest.fixture
def lab6(shared_lab: datapath_lab.Lab) -> Iterator[datapath_lab.Lab]:
    """Yield the same with a virtual IPv6 address, which g1 has."""
    with dual_stack_lab.served(shared_lab, underlay=4):
        yield shared_lab


@pytest.fixture
def over6(shared_lab: datapath_lab.Lab) -> Iterator[datapath_lab.Lab]:
    """Yield the lab of :func:`lab6` with tunnels over IPv6."""
    with dual_stack_lab.served(shared_lab, underlay=6):
        yield shared_lab


@pytest.fixture(scope="module", params=dual_stack_lab.SAME, ids=dual_stack_lab.NAME)
def versions(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Return the IP versions between the nodes and inside the tunnel.

    Of the module's scope, so that pytest puts tests with the same tunnels together: other tunnels take time.
    """
    outer, inner = request.param
    return outer, inner


@pytest.fixture
def tunnel(shared_lab: datapath_lab.Lab, versions: tuple[int, int]) -> Iterator[dual_stack_lab.Tunnel]:
    """Yield the tunnel to g1; its gateway's address is on g1."""
    made = dual_stack_lab.Tunnel(shared_lab, *versions)
    with dual_stack_lab.served(shared_lab, underlay=made.underlay):
        yield made
