"""Which egress IP a refusal of the kernel concerns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cni.datapath.reconcile import _of_egress_ips
from cni.kernel import ids
from cni.kernel.diff import Change
from cni.kernel.errors import KernelError
from cni.kernel.state import Route

from .test_objects import EGRESS, plan


def test_the_way_back_belongs_to_no_egress_ip_though_some_have_no_slot() -> None:
    refused = KernelError("refused")
    without = replace(EGRESS, id="1" * 16, slot=0, inlet=2, vni=2)
    of = replace(plan("g1"), egress_ips=(without, EGRESS))

    def put(table: int) -> Change:
        return Change("put", Route(4, table, "unicast", 0, ids.RETURN_DEVICE))

    with pytest.raises(KernelError):
        _of_egress_ips(of, {put(ids.TABLE_BASE): refused})
    [found] = _of_egress_ips(of, {put(ids.TABLE_BASE + EGRESS.slot): refused})
    assert found.egress_id == EGRESS.id
