"""The check of firewalls before an installation, with real rules that the kernel lists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest

from cni.kernel import ids
from gateway_agent.adapters.probes import legacy_tables
from gateway_agent.node_install import firewalls, legacy_ruleset
from gateway_agent.node_install.firewalls import Outcome, Packet

from ..lab.namespace import Namespace

LEASE, TUNNEL, SETS = Packet("input", "udp", 7947), Packet("input", "udp", 4799), Packet("input", "tcp", 7947)
FORWARD = Packet("forward")
INPUT = "type filter hook input priority 0"
PLAIN = "; ".join(
    (
        "iifname lo accept", "ct state established,related accept", "ct state invalid drop", "tcp dport 22 accept",
        "icmp type echo-request accept",
    )
)  # fmt: skip
FIREWALLD = """
table inet firewalld {
  chain in_public_allow { tcp dport 22 accept; PORTS }
  chain in_public { jump in_public_allow; meta l4proto { icmp, ipv6-icmp } accept; }
  chain zones { goto in_public; }
  chain input {
    type filter hook input priority 10
    ct state { established, related } accept
    iifname lo accept
    jump zones
    reject with icmpx admin-prohibited
  }
}
"""
OPEN, CLOSED, UNKNOWN = Outcome.OPEN, Outcome.CLOSED, Outcome.UNKNOWN


def of(machine: Namespace, text: str, packet: Packet, families: tuple[str, ...] = ("ip", "inet")) -> Outcome:
    """Return the worst of all chains."""
    machine.run("nft", "flush", "ruleset")
    machine.run("nft", "-f", "-", text=text)
    ruleset = json.loads(machine.run("nft", "-j", "list", "ruleset"))["nftables"]
    found = {each.outcome for each in firewalls.closing(ruleset, packet, families)}
    return next((outcome for outcome in (CLOSED, UNKNOWN) if outcome in found), OPEN)


def table(rules: str, policy: str = "drop", name: str = "filter", family: str = "inet") -> str:
    return f"table {family} {name} {{ chain input {{ {INPUT}; policy {policy}; {rules}; }}; }}\n"


@pytest.fixture(scope="module")
def machine() -> Iterator[Namespace]:
    made = Namespace("egwdp-firewalls")
    made.create()
    try:
        yield made
    finally:
        made.delete()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", OPEN),
        (table(PLAIN, "accept"), OPEN),
        (table(PLAIN), CLOSED),
        (table(f"{PLAIN}; udp dport 7947 accept"), OPEN),
        (table(f"{PLAIN}; udp dport {{ 53, 7000-8000 }} accept"), OPEN),
        (table(f"{PLAIN}; udp dport {{ 53, 67 }} accept"), CLOSED),
        (table(f"{PLAIN}; meta l4proto udp accept"), OPEN),
        (table(f"{PLAIN}; tcp dport 7947 accept"), CLOSED),
        (table(f"{PLAIN}; ct state new udp dport 7947 counter accept"), OPEN),
        (table(f"{PLAIN}; ip saddr 10.0.0.0/8 accept"), UNKNOWN),
        (table(f"{PLAIN}; iifname eth1 accept"), UNKNOWN),
        (table(f"{PLAIN}; ip saddr 10.0.0.0/8 udp dport 53 accept"), CLOSED),
        (table(f"{PLAIN}; ip saddr 10.0.0.0/8 udp dport 7947 accept"), UNKNOWN),
        (table(f"{PLAIN}; udp dport vmap {{ 7947: accept }}"), UNKNOWN),
        (table("ct state vmap { established: accept, related: accept, invalid: drop }"), CLOSED),
        (table(f"{PLAIN}; accept"), OPEN),
        (table(f"{PLAIN}; counter drop", "accept"), CLOSED),
        (FIREWALLD.replace("PORTS", ""), CLOSED),
        (FIREWALLD.replace("PORTS", "udp dport 7947 ct state { new, untracked } accept;"), OPEN),
        (table(PLAIN, name=ids.NFT_NODE_INET), OPEN),
        (table("drop", family="ip6"), OPEN),
        (table(f"{PLAIN}; udp dport 7947 accept") + table(PLAIN, name="another"), CLOSED),
    ],
)
def test_what_a_firewall_does_with_heartbeats(machine: Namespace, text: str, expected: Outcome) -> None:
    assert of(machine, text, LEASE) is expected


def test_each_port_and_protocol_is_judged_by_itself(machine: Namespace) -> None:
    text = table(f"{PLAIN}; udp dport 7947 accept")
    assert [of(machine, text, packet) for packet in (LEASE, TUNNEL, SETS)] == [OPEN, CLOSED, CLOSED]


def test_the_family_of_the_nodes_counts(machine: Namespace) -> None:
    text = table("udp dport 53 accept", family="ip6")
    assert of(machine, text, LEASE, ("ip6", "inet")) is CLOSED


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("policy drop", CLOSED),
        ("policy accept", OPEN),
        ("policy drop; ct state established accept", CLOSED),
        ("policy drop; iifname docker0 oifname != docker0 accept", UNKNOWN),
        ("policy drop; accept", OPEN),
    ],
)
def test_forwarding(machine: Namespace, rules: str, expected: Outcome) -> None:
    text = f"table ip filter {{ chain FORWARD {{ type filter hook forward priority 0; {rules}; }}; }}\n"
    assert of(machine, text, FORWARD) is expected


def test_rules_of_iptables(machine: Namespace) -> None:
    machine.run("nft", "flush", "ruleset")
    for message in ("-P INPUT DROP", "-A INPUT -i lo -j ACCEPT", "-A INPUT -p tcp --dport 22 -j ACCEPT"):
        machine.run("iptables-nft", *message.split())
    ruleset = json.loads(machine.run("nft", "-j", "list", "ruleset"))["nftables"]
    assert [each.outcome for each in firewalls.closing(ruleset, LEASE, ("ip", "inet"))] == [CLOSED]
    machine.run("iptables-nft", "-A", "INPUT", "-p", "udp", "--dport", "7947", "-j", "ACCEPT")
    ruleset = json.loads(machine.run("nft", "-j", "list", "ruleset"))["nftables"]
    assert firewalls.closing(ruleset, LEASE, ("ip", "inet")) == ()


@pytest.mark.parametrize(
    ("rules", "packet", "expected"),
    [
        ([], LEASE, OPEN),
        (["-P INPUT DROP"], LEASE, CLOSED),
        (["-A INPUT -j DROP"], LEASE, CLOSED),
        (
            ["-P INPUT DROP", "-A INPUT -i lo -j ACCEPT", "-A INPUT -p tcp --dport 22 -j ACCEPT"],
            LEASE,
            CLOSED,
        ),
        (["-P INPUT DROP", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"], LEASE, CLOSED),
        (["-P INPUT DROP", "-A INPUT -p udp -m comment --comment 'a b' --dport 7947 -j ACCEPT"], LEASE, OPEN),
        (["-P INPUT DROP", "-A INPUT -p udp --dport 7000:8000 -j ACCEPT"], LEASE, OPEN),
        (["-P INPUT DROP", "-A INPUT -p udp --dport 7000:8000 -j ACCEPT"], SETS, CLOSED),
        (["-P INPUT DROP", "-A INPUT -s 10.0.0.0/8 -j ACCEPT"], LEASE, UNKNOWN),
        (["-P INPUT DROP", "-A INPUT ! -s 10.0.0.0/8 -j ACCEPT"], LEASE, UNKNOWN),
        (
            ["-N SITE", "-A INPUT -j SITE", "-A SITE -p udp --dport 7947 -j ACCEPT", "-P INPUT DROP"],
            LEASE,
            OPEN,
        ),
        (["-P FORWARD DROP"], FORWARD, CLOSED),
        (["-P FORWARD DROP", "-A FORWARD -i docker0 -j ACCEPT"], FORWARD, UNKNOWN),
        (["-P FORWARD DROP"], LEASE, OPEN),
    ],
)
def test_rules_of_iptables_legacy_are_judged_as_those_of_nftables(
    machine: Namespace, rules: list[str], packet: Packet, expected: Outcome
) -> None:
    clear = [f"iptables-legacy {each}" for each in ("-P INPUT ACCEPT", "-P FORWARD ACCEPT", "-F", "-X")]
    commands = [*clear, *(f"iptables-legacy {rule}" for rule in rules)]
    machine.run("sh", "-ec", "\n".join(commands))
    try:
        found = list(legacy_ruleset.ruleset(machine.inside(partial(legacy_tables.listed, 4)), "ip"))
        closing = firewalls.closing(found, packet, ("ip", "inet"))
        assert [each.outcome for each in closing] == ([] if expected is OPEN else [expected])
        assert all(each.chain.startswith("ip iptables-legacy filter ") for each in closing)
        assert machine.inside(partial(legacy_tables.listed, 6)) == "", "the kernel has no such table"
    finally:
        machine.run("sh", "-ec", "\n".join(clear))
