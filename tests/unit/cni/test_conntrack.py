"""``conntrack`` as a program: what is asked of it, what its lines mean. The real one runs in ``tests/netns``."""

from __future__ import annotations

import pytest
from pytest_subprocess import FakeProcess

from cni.kernel import conntrack
from cni.kernel.errors import KernelError

LISTED = """\
udp      17 29 src=10.1.0.5 dst=10.96.0.10 sport=39940 dport=53 src=10.1.0.9 dst=10.1.0.5 sport=53 dport=39940 mark=0 use=1
tcp      6 431999 ESTABLISHED src=10.1.0.5 dst=203.0.113.9 sport=40000 dport=80 src=203.0.113.9 dst=172.16.0.21 sport=80 dport=40000 [ASSURED] mark=1048576 use=1
icmp     1 29 src=10.1.0.5 dst=203.0.113.9 type=8 code=0 id=9172 [UNREPLIED] src=203.0.113.9 dst=172.16.0.21 type=0 code=0 id=9172 mark=0 use=1
unknown  47 599 src=10.1.0.5 dst=203.0.113.9 src=203.0.113.9 dst=10.1.0.5 mark=0 use=1
a line of some later version
"""  # noqa: E501
COUNT = "conntrack v1.4.7 (conntrack-tools): {} flow entries have been {}."


@pytest.fixture
def program(fp: FakeProcess, monkeypatch: pytest.MonkeyPatch) -> FakeProcess:
    fp.allow_unregistered(False)
    monkeypatch.setattr("shutil.which", lambda name, path: f"/sbin/{name}")
    return fp


def test_connections_name_who_answers(program: FakeProcess) -> None:
    command = ["/sbin/conntrack", "-L", "-f", "ipv4", "--orig-src", "10.1.0.5"]
    program.register(command, stdout=LISTED, stderr=COUNT.format(4, "shown"))
    dns, web, echo, tunnel = conntrack.connections("10.1.0.5")
    assert (dns.protocol, dns.destination, dns.remote) == ("udp", "10.96.0.10", "10.1.0.9")
    assert web.marks == (("sport", "40000"), ("dport", "80"))
    assert echo.marks == (("type", "8"), ("code", "0"), ("id", "9172"))
    assert (tunnel.protocol, tunnel.marks) == ("47", ())


def test_only_what_is_stale_is_deleted_and_never_tcp(program: FakeProcess) -> None:
    listing = ["/sbin/conntrack", "-L", "-f", "ipv4", "--orig-src", "10.1.0.5"]
    deleting = [
        "/sbin/conntrack", "-D", "-f", "ipv4", "-p", "icmp", "--orig-src", "10.1.0.5", "--orig-dst", "203.0.113.9",
        "--icmp-type", "8", "--icmp-code", "0", "--icmp-id", "9172",
    ]  # fmt: skip
    program.register(listing, stdout=LISTED.replace("unknown", "tcp    "), stderr=COUNT.format(4, "shown"))
    program.register(deleting, stderr=COUNT.format(1, "deleted"))
    assert conntrack.delete_connections("10.1.0.5", lambda remote: remote == "203.0.113.9") == 1
    assert program.call_count(deleting) == 1


def test_none_is_no_failure(program: FakeProcess) -> None:
    command = ["/sbin/conntrack", "-L", "-f", "ipv6", "--orig-src", "fd00::5"]
    program.register(command, stderr=COUNT.format(0, "shown"), returncode=1)
    assert conntrack.delete_connections("fd00::5") == 0


def test_what_conntrack_cannot_do_is_told(program: FakeProcess) -> None:
    program.register([program.any()], stderr="Operation failed: Operation not permitted", returncode=1)
    with pytest.raises(KernelError, match="not permitted"):
        conntrack.delete_connections("10.1.0.5")


def test_a_machine_without_conntrack_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(KernelError, match="install conntrack"):
        conntrack.connections("10.1.0.5")
