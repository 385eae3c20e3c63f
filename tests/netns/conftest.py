from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import datapath_lab


@pytest.fixture(scope="session")
def standing_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[datapath_lab.Lab]:
    with datapath_lab.lab(tmp_path_factory.mktemp("datapath") / "service.log") as lab:
        yield lab


@pytest.fixture
def lab(standing_lab: datapath_lab.Lab) -> datapath_lab.Lab:
    """Return the data path lab: everything as at the beginning."""
    standing_lab.reset()
    return standing_lab
