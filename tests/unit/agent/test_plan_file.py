from __future__ import annotations

from pathlib import Path

import pytest

from cni import contract
from cni.plan import Plan, dumps
from gateway_agent.agent.plan_file import PlanFile

PLAN = Plan("w1", 0x0FF00000, 4799, 1450)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    PlanFile(tmp_path).write(PLAN)
    assert PlanFile(tmp_path).read() == PLAN
    assert (tmp_path / contract.PLAN).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [contract.PLAN], "no draft is left"


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", dumps(PLAN).replace("mtu", "mut").encode()])
def test_a_plan_that_cannot_be_read_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / contract.PLAN).write_bytes(content)
    assert PlanFile(tmp_path).read() is None


def test_a_plan_that_cannot_be_put_in_place_names_its_file_and_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / contract.PLAN).mkdir()
    with pytest.raises(OSError) as caught:
        PlanFile(tmp_path).write(PLAN)
    assert contract.PLAN in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [contract.PLAN]


def test_the_mark_outlives_a_write_and_goes_by_itself_only(tmp_path: Path) -> None:
    """Between both a newer edit may have come."""
    file, mark = PlanFile(tmp_path), tmp_path / contract.PLAN_OUTDATED
    for _ in range(2):
        file.mark_outdated()
    file.write(PLAN)
    assert mark.exists()
    for _ in range(2):
        file.mark_current()
    assert not mark.exists()
