"""A table's number changes with what somebody else does to it, and with nothing else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.kernel.nftables import table_digest
from cni.kernel.nftables.table_digest import Table
from tests.lab.namespace import Namespace
from tests.lab.waiting import until

NAME = "inet egwtest"
MARK = "stamp_"
RULES = 10_000
REFRESHES = """
import socket, time
from cni.kernel.netlink.constants import NFT_MSG_NEWSETELEM, NLM_F_CREATE
from cni.kernel.netlink.messages import Request
from cni.kernel.nftables.elements import TransactionSocket, elements
kernel = TransactionSocket()
body = elements("leases", "open", [socket.inet_aton("10.9.9.9")], 60_000)
refresh = [Request(NFT_MSG_NEWSETELEM, NLM_F_CREATE, body)]
kernel.commit(refresh)
print("refreshed", flush=True)
while True:
    kernel.commit(refresh)
    time.sleep(0.004)
"""
TEXT = """
table inet egwtest {
  map ways {
    type ipv4_addr . ipv4_addr : verdict
    flags interval
    elements = { 10.0.0.1 . 192.0.2.0/24 : drop }
  }
  set known {
    type ipv4_addr
    elements = { 10.0.0.1, 10.0.0.2 }
  }
  set seen {
    type ipv4_addr . inet_service
    flags dynamic,timeout
    timeout 1m
    size 65535
  }
  chain more {
    ip saddr . ip daddr vmap @ways
    tcp dport { 1, 2 } drop
    quota over 900 mbytes drop comment "much"
  }
  chain out {
    type filter hook output priority 5; policy accept;
    counter jump more
    ip daddr @known counter accept
  }
}
table bridge egwtest {
  chain more {
    counter
  }
}
"""


@pytest.fixture
def machine() -> Iterator[Namespace]:
    made = Namespace("egwnt")
    made.delete()
    made.create()
    made.ip("link set lo up", "address add 10.0.0.1/32 dev lo")
    nft(made, TEXT)
    yield made
    made.delete()


def nft(machine: Namespace, text: str) -> None:
    machine.run("nft", "-f", "-", text=text)


def read(machine: Namespace) -> Table:
    found = machine.inside(lambda: table_digest.read(NAME, MARK))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "change",
    [
        "add rule inet egwtest more drop",
        "insert rule inet egwtest more drop",
        "flush chain inet egwtest more",
        "add chain inet egwtest another",
        "add element inet egwtest known { 10.0.0.3 }",
        "delete element inet egwtest known { 10.0.0.2 }",
        "add element inet egwtest ways { 10.0.0.2 . 192.0.2.0/24 : drop }",
        "delete element inet egwtest ways { 10.0.0.1 . 192.0.2.0/24 }",
        "add set inet egwtest more_known { type ipv4_addr; }",
        "chain inet egwtest out { policy drop; }",
        "table inet egwtest { flags dormant; }",
    ],
)
def test_what_another_program_changes_shows(machine: Namespace, change: str) -> None:
    before = read(machine)
    nft(machine, change)
    assert read(machine).digest != before.digest


@pytest.mark.parametrize(
    "change",
    [
        "add element inet egwtest seen { 10.0.0.1 . 80 }",
        "add chain inet egwtest stamp_one_two",
        "add rule bridge egwtest more drop",
        "delete table bridge egwtest",
        "add table ip egwtest\nadd chain ip egwtest more\nadd rule ip egwtest more drop",
        "flush chain inet egwtest out\nadd rule inet egwtest out counter jump more\n"
        "add rule inet egwtest out ip daddr @known counter accept",
    ],
    ids=[
        "timed element",
        "stamp",
        "another family",
        "another table",
        "a table of that name",
        "the same anew",
    ],
)
def test_what_is_not_of_the_table_does_not(machine: Namespace, change: str) -> None:
    before = read(machine)
    nft(machine, change)
    assert read(machine).digest == before.digest


def test_packets_change_nothing(machine: Namespace) -> None:
    before = read(machine)
    machine.run("ping", "-c", "2", "-i", "0.01", "10.0.0.1")
    assert "packets 0" not in machine.run("nft", "list", "chain", "inet", "egwtest", "out")
    assert read(machine) == before


def test_stamps_are_returned(machine: Namespace) -> None:
    assert read(machine).marks == ()
    nft(machine, "add chain inet egwtest stamp_one_two")
    assert read(machine).marks == ("one_two",)


def test_no_table(machine: Namespace) -> None:
    assert machine.inside(lambda: table_digest.read("inet egwnone", MARK)) is None


def test_it_is_read_while_others_write_all_the_time(machine: Namespace) -> None:
    """``nft list`` begins anew with each transaction; with thousands of elements it does not come to an end."""
    many = ", ".join(f"10.{n >> 8 & 255}.{n & 255}.1 . {n & 65535}" for n in range(5000))
    nft(machine, f"add element inet egwtest seen {{ {many} }}")
    before, over = read(machine), threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            nft(machine, f"add element inet egwtest seen {{ 10.9.9.9 . {number % 65535 + 1} }}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        began = time.monotonic()
        for _ in range(50):
            assert read(machine) == before
        taken = time.monotonic() - began
    finally:
        over.set()
        writer.join()
    assert taken < 5


def test_thousands_of_rules_are_read_while_leases_are_refreshed(machine: Namespace, tmp_path: Path) -> None:
    """With a thousand egress IPs the listing of the rules takes longer than the time between two refreshes."""
    rules = "\n".join(f"add rule {NAME} more meta mark {number} counter" for number in range(RULES))
    nft(machine, f"{rules}\ntable netdev leases {{ set open {{ type ipv4_addr; flags timeout; }}; }}")
    before = read(machine)
    log = tmp_path / "refreshes"
    writer = machine.spawn(sys.executable, "-c", REFRESHES, log=log)
    try:
        until(lambda: log.read_text() == "refreshed\n", "a refresh", 10.0)
        assert read(machine) == before
        nft(machine, f"add rule {NAME} more drop")
        assert read(machine).digest != before.digest
    finally:
        writer.kill()
        writer.wait()
