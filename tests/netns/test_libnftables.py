"""nft's library in a process that stays."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator

import pytest

from ..lab.namespace import REPOSITORY, Namespace

ELEMENTS = 60_000
LIMIT_KIB = 8 << 10
PROGRAM = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from cni.kernel.nftables.libnftables import Commands

def kept():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))

commands = Commands()
commands.run("add table inet t; add set inet t s {{ type mark; }}")
elements = ", ".join(map(str, range({ELEMENTS})))
text = "add element inet t s {{ " + elements + " }}"
del elements
before = kept()
commands.run(text)
print(kept() - before)
"""


@pytest.fixture
def machine() -> Iterator[Namespace]:
    made = Namespace("egwdp-libnftables")
    made.create()
    try:
        yield made
    finally:
        made.delete()


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc gives memory back on demand"
)
def test_a_large_transaction_leaves_no_memory_behind(machine: Namespace) -> None:
    assert int(machine.run(sys.executable, "-c", PROGRAM)) < LIMIT_KIB
