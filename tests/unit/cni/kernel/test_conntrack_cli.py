"""``conntrack`` as a program: what is asked of it, what its lines mean. The real one runs in ``tests/netns``."""

from __future__ import annotations

import pytest
from pytest_subprocess import FakeProcess

from cni.kernel import conntrack_cli
from cni.kernel.conntrack_cli import Flow
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


def test_flows_name_who_answers(program: FakeProcess) -> None:
    command = ["/sbin/conntrack", "-L", "-f", "ipv4", "--orig-src", "10.1.0.5"]
    program.register(command, stdout=LISTED + LISTED, stderr=COUNT.format(8, "shown"))
    assert conntrack_cli.flows("10.1.0.5") == {
        Flow("udp", "10.1.0.9"), Flow("tcp", "203.0.113.9"), Flow("icmp", "203.0.113.9"), Flow("47", "203.0.113.9"),
    }  # fmt: skip


def test_open_connections_are_counted_one_by_one(program: FakeProcess) -> None:
    ended = LISTED.replace("ESTABLISHED", "TIME_WAIT").splitlines()[1]
    program.register(
        ["/sbin/conntrack", "-L", "-f", "ipv4"],
        stdout=LISTED + LISTED + ended,
        stderr=COUNT.format(9, "shown"),
    )
    found = conntrack_cli.open_connections({"10.1.0.5"})
    assert sorted(found) == sorted([("10.1.0.5", "10.1.0.9"), *[("10.1.0.5", "203.0.113.9")] * 3] * 2)


def test_what_the_outside_sees_by_an_address_is_deleted_only_with_our_mark(program: FakeProcess) -> None:
    mark = ["--mark", "0x8000000/0x8000000"]
    command = ["/sbin/conntrack", "-D", "-f", "ipv6", *mark, "--reply-dst", "fd00:172::50"]
    program.register(command, stderr=COUNT.format(0, "deleted"), returncode=1)
    conntrack_cli.delete_shown("fd00:172::50", 0x08000000)
    assert program.call_count(command) == 1


def test_only_what_is_stale_is_deleted_and_never_tcp(program: FakeProcess) -> None:
    listing = ["/sbin/conntrack", "-L", "-f", "ipv4", "--orig-src", "10.1.0.5"]
    ends = ["--orig-src", "10.1.0.5", "--reply-src", "203.0.113.9"]
    deleting = {p: ["/sbin/conntrack", "-D", "-f", "ipv4", "-p", p, *ends] for p in ("icmp", "47")}
    program.register(listing, stdout=LISTED, stderr=COUNT.format(4, "shown"))
    program.register(deleting["icmp"], stderr=COUNT.format(3, "deleted"))
    program.register(deleting["47"], stderr=COUNT.format(0, "deleted"), returncode=1)
    assert conntrack_cli.delete_connections({"10.1.0.5": lambda remote: remote == "203.0.113.9"}) == 3
    assert [program.call_count(command) for command in deleting.values()] == [1, 1]


def test_none_is_no_failure(program: FakeProcess) -> None:
    command = ["/sbin/conntrack", "-L", "-f", "ipv6", "--orig-src", "fd00::5"]
    program.register(command, stderr=COUNT.format(0, "shown"), returncode=1)
    assert conntrack_cli.delete_connections({"fd00::5": lambda _: True}) == 0


def test_what_conntrack_cannot_do_is_told(program: FakeProcess) -> None:
    program.register([program.any()], stderr="Operation failed: Operation not permitted", returncode=1)
    with pytest.raises(KernelError, match="not permitted"):
        conntrack_cli.delete_connections({"10.1.0.5": lambda _: True})


def test_a_machine_without_conntrack_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(KernelError, match="install conntrack"):
        conntrack_cli.flows("10.1.0.5")


def test_of_many_sources_all_is_listed_once(program: FakeProcess) -> None:
    listing = ["/sbin/conntrack", "-L", "-f", "ipv4"]
    ends = ["--orig-src", "10.1.0.5", "--reply-src", "203.0.113.9"]
    program.register(listing, stdout=LISTED, stderr=COUNT.format(4, "shown"))
    for protocol in ("icmp", "47"):
        deleting = ["/sbin/conntrack", "-D", "-f", "ipv4", "-p", protocol, *ends]
        program.register(deleting, stderr=COUNT.format(1, "deleted"))
    stale = {
        f"10.1.0.{number}": lambda remote: remote == "203.0.113.9"
        for number in range(1, conntrack_cli.MAX_SINGLE_SOURCES + 2)
    }
    assert conntrack_cli.delete_connections(stale) == 2
    assert program.call_count(listing) == 1


def test_a_deletion_goes_on_behind_a_connection_that_another_program_has_deleted(
    program: FakeProcess,
) -> None:
    command = ["/sbin/conntrack", "-D", "-f", "ipv4", "--mark", "0x1/0x1", "--reply-dst", "172.16.0.50"]
    gone = "conntrack v1.4.7 (conntrack-tools): Operation failed: such conntrack doesn't exist"
    program.register(command, stderr=gone, returncode=1)
    program.register(command, stderr=COUNT.format(3, "deleted"))
    conntrack_cli.delete_shown("172.16.0.50", 1)
    assert program.call_count(command) == 2
    for _ in range(conntrack_cli.MAX_TRIES):
        program.register(command, stderr=gone, returncode=1)
    with pytest.raises(KernelError, match="doesn't exist"):
        conntrack_cli.delete_shown("172.16.0.50", 1)
