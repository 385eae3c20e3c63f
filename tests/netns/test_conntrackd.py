"""Entries go over from one gateway's kernel to the others', and connections go on there."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_agent.lease_daemon.process import PRIORITY
from tests.lab.namespace import Namespace, existing
from tests.lab.waiting import until

from .conntrackd_lab import PREFIX, SERVER, TIMEOUT_S, TUNNELED, VIRTUAL, WORKER, Bench


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if os.geteuid():
        pytest.skip("needs root: network namespaces")
    for name in existing(PREFIX):
        Namespace(name).delete()
    bench = Bench(tmp_path_factory.mktemp("ct"))
    try:
        bench.lay_out()
        yield bench
    finally:
        bench.delete()


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    """All three in sync, the first one master, and no entry anywhere."""
    shared.move("g1")
    for gateway in shared.gateways.values():
        gateway.flush()
        gateway.start()
    shared.gateways["g1"].set_role("master")
    for gateway in shared.gateways.values():
        gateway.in_sync()
    yield shared
    for gateway in shared.gateways.values():
        gateway.stop()


def everywhere(bench: Bench, what: str, expected: int = 1) -> None:
    def there() -> bool:
        return all(len(gateway.entries(what)) == expected for gateway in bench.gateways.values())

    until(there, f"{expected} entries with {what} on all", TIMEOUT_S)


def echo(sock: socket.socket, data: bytes) -> None:
    """More than one segment in both directions, less than the service's socket holds."""
    sock.sendall(data)
    received = b""
    while len(received) < len(data):
        received += sock.recv(1 << 20)
    assert received == data


def test_a_connection_goes_on_by_one_gateway_after_the_other(bench: Bench) -> None:
    with bench.connect() as sock:
        assert sock.recv(100) == f"welcome {VIRTUAL}\n".encode()
        port = sock.getsockname()[1]
        for successor in ("g2", "g3", "g1"):
            everywhere(bench, f" ESTABLISHED src={WORKER} dst={SERVER} sport={port} ")
            new = bench.gateways[successor]
            (entry,) = new.entries(f"sport={port} ")
            assert f"src={SERVER} dst={VIRTUAL} " in entry
            # The number beside the bit may be another node's.
            assert int(entry.partition("mark=")[2].split()[0]) & TUNNELED
            bench.move(successor)
            for _ in range(20):
                echo(sock, os.urandom(16_000))
            for gateway in bench.gateways.values():
                gateway.set_role("master" if gateway is new else "standby")
    everywhere(bench, f"TIME_WAIT src={WORKER} dst={SERVER} sport={port} ")


def test_the_answer_may_come_first_by_the_new_gateway(bench: Bench) -> None:
    bench.flows(41000, 1)
    everywhere(bench, "sport=41000 ")
    with bench.worker.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.bind((WORKER, 41000))
        bench.move("g2")
        with bench.server.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            packet = _datagram(443, 41000, b"first")
            raw = bench.server.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
            with raw:
                raw.bind((SERVER, 0))
                raw.sendto(packet, (VIRTUAL, 0))
        assert sock.recvfrom(100) == (b"first", (SERVER, 443))


def _datagram(source: int, target: int, data: bytes) -> bytes:
    """UDP, without a checksum (RFC 768: 0)."""
    return b"".join(n.to_bytes(2) for n in (source, target, 8 + len(data), 0)) + data


def test_the_end_of_a_connection_goes_over_and_the_end_of_a_copy_does_not(bench: Bench) -> None:
    standby = bench.gateways["g2"]
    bench.flows(42000, 2)
    everywhere(bench, "src=10.84.0.21", 2)
    standby.stop()
    assert not standby.daemons()
    standby.start()
    standby.in_sync()
    standby.namespace.run("conntrack", "-D", "-p", "udp", "--sport", "42000")
    bench.gateways["g1"].namespace.run("conntrack", "-D", "-p", "udp", "--sport", "42001")
    everywhere(bench, "sport=42001 ", 0)
    # What is deleted later is gone everywhere, so an order to delete the first would have arrived.
    assert bench.gateways["g1"].entries("sport=42000 ")
    assert bench.gateways["g3"].entries("sport=42000 ")
    everywhere(bench, "sport=42000 ")


def test_a_late_standby_has_the_whole_table_when_it_says_so(bench: Bench) -> None:
    late = bench.gateways["g3"]
    late.stop()
    bench.flows(20000, 800)
    late.flush()
    late.start()
    late.in_sync()
    assert len(late.entries()) == 800
    bench.gateways["g2"].set_role("master")
    bench.gateways["g1"].set_role("standby")
    late.stop()
    late.flush()
    bench.gateways["g1"].stop()
    bench.gateways["g2"].in_sync()
    until(
        lambda: bench.gateways["g2"].state().counters.entries >= 800,
        "the new master knows the table",
        TIMEOUT_S,
    )
    late.start()
    late.in_sync()
    assert len(late.entries()) == 800
    bench.gateways["g1"].start()


def test_connections_of_others_stay_where_they_are(bench: Bench) -> None:
    with bench.gateways["g1"].namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
        own.connect((SERVER, 443))
        bench.flows(43000, 1)
        everywhere(bench, "sport=43000 ")
        assert SERVER in bench.gateways["g1"].namespace.run("conntrack", "-L", "-p", "tcp")
        for name in ("g2", "g3"):
            assert SERVER not in bench.gateways[name].namespace.run("conntrack", "-L", "-p", "tcp")


def test_a_killed_one_is_started_again_and_none_outlives_its_agent(bench: Bench) -> None:
    standby = bench.gateways["g2"]
    (first,) = standby.daemons()
    os.kill(first, signal.SIGKILL)
    until(lambda: standby.state().restarts == 1 and standby.state().in_sync, "in sync again", TIMEOUT_S)
    (second,) = standby.daemons()
    assert second != first
    standby.kill()
    until(lambda: not standby.daemons(), "it has ended with its agent", TIMEOUT_S)
    # One that an agent has left behind, and that does not listen.
    (standby.run_dir / "text").replace(standby.paths.configuration)
    orphan = standby.namespace.spawn(
        "conntrackd", "-C", standby.paths.configuration, log=standby.run_dir / "log"
    )
    until(lambda: Path(standby.paths.control).exists(), "the orphan runs", TIMEOUT_S)
    orphan.send_signal(signal.SIGSTOP)
    standby.start()
    assert orphan.wait(TIMEOUT_S) == -signal.SIGKILL
    standby.in_sync()
    assert len(standby.daemons()) == 1
    assert not any(
        os.stat(path).st_mode & 0o077 for path in (standby.paths.configuration, standby.paths.control)
    )


def test_it_runs_below_the_lease_keeper(bench: Bench) -> None:
    """And below the kernel's packet processing: it takes no real time at all."""
    (pid,) = bench.gateways["g1"].daemons()
    until(lambda: os.sched_getscheduler(pid) == os.SCHED_OTHER, "its scheduling is as others'")
    assert os.sched_getparam(pid).sched_priority < PRIORITY
