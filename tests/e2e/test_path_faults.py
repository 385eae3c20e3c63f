"""Firewalls of other programs on an egress node: each that drops pods' packets is named, and another node serves."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_agent.policy.egress_node import path_state

from ..lab import documents, topology
from ..lab.lab import Lab
from ..lab.topology import OUTSIDE, VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled
from .path_reports import NAMED_S, examined, reason_of

DESTINATIONS = [f"{OUTSIDE}/32", "2001:db8:113::/64"]
FLANNEL = "iptables -A FORWARD -s 10.244.0.0/15 -j ACCEPT; iptables -A FORWARD -d 10.244.0.0/15 -j ACCEPT; "
KUBE_PROXY = (
    "iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP; "
    "iptables -A FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT; "
    "iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; "
)
DOCKER = "iptables -N DOCKER; iptables -A FORWARD -j DOCKER; iptables -A DOCKER ! -i docker0 -j DROP; "
UFW = (
    "iptables -N ufw-user-forward; iptables -N ufw-before-forward; iptables -N ufw-reject-forward; "
    "iptables -A FORWARD -j ufw-before-forward; iptables -A FORWARD -j ufw-reject-forward; "
    "iptables -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; "
    "iptables -A ufw-before-forward -j ufw-user-forward; "
)
"""Chains of ufw for what is forwarded."""
CALICO = (
    "iptables -N cali-FORWARD; iptables -N cali-to-hep-forward; iptables -I FORWARD -j cali-FORWARD; "
    "iptables -A cali-FORWARD -i cali+ -j ACCEPT; iptables -A cali-FORWARD -j cali-to-hep-forward; "
    "iptables -A cali-to-hep-forward -o eth1 -m mark --mark 0x0/0x10000 -j DROP; "
)
"""A host endpoint of Calico with applyOnForward, and no policy that allows."""
KUBE_ROUTER = (
    "iptables -N KUBE-ROUTER-FORWARD; iptables -N KUBE-NWPLCY-DEFAULT; iptables -I FORWARD -j KUBE-ROUTER-FORWARD; "
    "iptables -A KUBE-ROUTER-FORWARD -o eth1 -j KUBE-NWPLCY-DEFAULT; "
    "iptables -A KUBE-NWPLCY-DEFAULT -j MARK --set-xmark 0x0/0x10000; "
    "iptables -A KUBE-NWPLCY-DEFAULT -m mark ! --mark 0x10000/0x10000 -j REJECT; "
)
"""Chains of kube-router's network policies, which reject."""
FIREWALLD = """
table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_FORWARD_POLICIES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD_POLICIES {
    iifname "eth0" jump filter_FWD_public
    iifname "trusted0" accept
    jump filter_FWD_public
  }
  chain filter_FWD_public { meta l4proto { icmp, ipv6-icmp } accept; }
}
"""
"""Zone public of firewalld: what no zone accepts is rejected."""
SITE = "table inet site {{ chain {0} {{ type filter hook {1} priority {2}; {3} }}; }}"


def nft(*arguments: str) -> str:
    return f"echo {shlex.quote(SITE.format(*arguments))} | nft -f -"


FAULTS = {
    "FORWARD policy DROP": (
        "iptables -P FORWARD DROP",
        "nftables table ip filter, chain FORWARD, drops them (the policy of the chain)",
    ),
    "with rules of flannel": (
        f"{FLANNEL} iptables -P FORWARD DROP",
        "nftables table ip filter, chain FORWARD, drops them (the policy of the chain)",
    ),
    "with rules of kube-proxy": (
        f"{KUBE_PROXY} iptables -P FORWARD DROP",
        "nftables table ip filter, chain FORWARD, drops them (the policy of the chain)",
    ),
    "a chain of Docker": (DOCKER, "nftables table ip filter, chain DOCKER, drops them (rule 'iifname != \"docker0\""),
    "ufw": (
        f"{UFW} iptables -A ufw-reject-forward -j REJECT",
        "nftables table ip filter, chain ufw-reject-forward, drops them (rule 'counter",
    ),
    "a host endpoint of Calico": (
        CALICO,
        "nftables table ip filter, chain cali-to-hep-forward, drops them (rule 'oifname \"eth1\"",
    ),
    "network policies of kube-router": (
        KUBE_ROUTER,
        "nftables table ip filter, chain KUBE-NWPLCY-DEFAULT, drops them (rule 'meta mark",
    ),
    "a zone of firewalld": (
        f"echo {shlex.quote(FIREWALLD)} | nft -f -",
        "nftables table inet firewalld, chain filter_FORWARD, drops them (rule 'reject with icmpx admin-prohibited')",
    ),
    "iptables-legacy": (
        "iptables-legacy -P FORWARD DROP",
        "iptables-legacy table filter, chain FORWARD, drops them (the policy of the chain)",
    ),
    "a chain of iptables-legacy": (
        "iptables-legacy -t mangle -N SITE; iptables-legacy -t mangle -A FORWARD -j SITE; "
        "iptables-legacy -t mangle -A SITE -o eth1 -j DROP",
        "iptables-legacy table mangle, chain SITE, drops them (rule '-o eth1 -j DROP')",
    ),
    "a base chain behind ours": (
        nft("late", "forward", "100", "policy drop; ct state established accept;"),
        "nftables table inet site, chain late, drops them (the policy of the chain)",
    ),
    "a base chain before connection tracking": (
        nft("early", "prerouting", "raw", 'iifname "egw-*" counter drop;'),
        "nftables table inet site, chain early, drops them (rule 'iifname \"egw-*\"",
    ),
    "a rule behind source NAT": (
        nft("last", "postrouting", "srcnat + 5", "ip saddr 172.16.0.50 drop; ip6 saddr 2001:db8:172::50 drop;"),
        "nftables table inet site, chain last, drops them (rule 'ip saddr 172.16.0.50",
    ),
}  # fmt: skip
NODE_FAULTS = {
    "a default route elsewhere": (
        "ip route replace default via 10.0.0.1 dev eth0",
        "ip route replace default via 172.16.0.1 dev eth1",
        f"this node routes {OUTSIDE}/32 by eth0 via 10.0.0.1, not by eth1",
    ),
    "a better route elsewhere": (
        f"ip route add {OUTSIDE} via 10.0.0.1",
        f"ip route del {OUTSIDE}",
        f"this node routes {OUTSIDE}/32 by eth0 via 10.0.0.1, not by eth1",
    ),
    "a strict check of sources": (
        "sysctl -qw net.ipv4.conf.eth1.rp_filter=1 net.ipv4.conf.eth1.src_valid_mark=1",
        "sysctl -qw net.ipv4.conf.eth1.rp_filter=2 net.ipv4.conf.eth1.src_valid_mark=0",
        "interface eth1 drops answers, rp_filter is 1 and src_valid_mark is on",
    ),
    "no forwarding": (
        "sysctl -qw net.ipv4.conf.eth1.forwarding=0",
        "sysctl -qw net.ipv4.conf.eth1.forwarding=1",
        "interface eth1 does not forward",
    ),
}
"""Faults of routes and settings: command, its undoing, message."""
CLEAR = (
    "iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F; "
    "iptables-legacy -t mangle -F; iptables-legacy -t mangle -X; "
    "iptables -P FORWARD ACCEPT; iptables -F; iptables -X; nft delete table inet site; "
    "nft delete table inet firewalld; true"
)


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = [
        documents.virtual_gateway(GATEWAY, [VIRTUAL, topology.beside(VIRTUAL)]),
        documents.policy("backend", GATEWAY, BACKEND, DESTINATIONS),
    ]
    with settled("test_path_faults", topology.dual_stack(gateways=2), objects=objects) as made:
        yield made


def test_a_policy_that_comes_and_goes_moves_the_address_once(lab: Lab) -> None:
    before = lab.wait_settled(GATEWAY)
    machine, changes = lab.nodes[before].machine, list[tuple[float, str]]()
    ready = f"{before} is ready"
    until(lambda: reason_of(lab, before) == "", ready, path_state.MAX_HOLD_S + 10)

    def for_seconds(seconds: float) -> None:
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            master = lab.master(GATEWAY, asked="w1")
            if master and (not changes or changes[-1][1] != master):
                changes.append((time.monotonic(), master))

    try:
        for _ in range(6):
            machine.run("iptables", "-P", "FORWARD", "DROP")
            for_seconds(2.0)
            machine.run("iptables", "-P", "FORWARD", "ACCEPT")
            for_seconds(2.0)
    finally:
        machine.run("sh", "-c", CLEAR)
    assert [master for _, master in changes][:2] == [before, next(n for n in ("g1", "g2") if n != before)]
    assert len(changes) <= 2, changes
    assert "packets were dropped on this node: ready when all get through for" in reason_of(lab, before)
    # If the master fails, a node in its hold time is better than none.
    lab.cut(changes[-1][1])
    try:
        until(lambda: lab.master(GATEWAY, asked="w1") == before, f"{before} serves", 3)
    finally:
        lab.mend(changes[-1][1])
    lab.wait_settled(GATEWAY, 20)


def test_a_closed_node_serves_nothing_from_its_agents_start_on(lab: Lab) -> None:
    """Its lease daemon starts with it, as after a boot, and no other node can serve."""
    other = lab.wait_settled(GATEWAY)
    closed = next(name for name in ("g1", "g2") if name != other)
    machine, agent = lab.nodes[closed].machine, lab.nodes[closed].agent

    def served() -> tuple[str, int]:
        """Return the master of the IPv4 address, and its epoch: each takeover has one of its own."""
        found = lab.nodes["w1"].agent.status()["egressIPs"]
        return next((str(each["master"]), int(each["epoch"])) for each in found if each["ip"] == VIRTUAL)

    agent.stop()
    try:
        machine.run("iptables", "-P", "FORWARD", "DROP")
        lab.nodes[other].machine.run("iptables", "-P", "FORWARD", "DROP")
        until(lambda: not served()[0], "nobody serves", NAMED_S)
        before = served()
        agent.start()
        until(lambda: "do not get from" in reason_of(lab, closed), f"{closed} is found closed", 20)
        assert served() == before
    finally:
        machine.run("sh", "-c", CLEAR)
        lab.nodes[other].machine.run("sh", "-c", CLEAR)
    lab.wait_settled(GATEWAY, 20)


def test_an_open_path_is_shown(lab: Lab) -> None:
    for node in ("g1", "g2"):
        found = examined(lab, node)
        assert len(found) == 2
        assert set(found) == {
            f"open to {lab.nodes[node].host.interfaces[-1].name}, packets of up to 1450 bytes"
        }


def test_no_probe_leaves_and_no_connection_stays(lab: Lab) -> None:
    master = lab.wait_settled(GATEWAY)
    machine = lab.nodes[master].machine

    def proven() -> int:
        listed = machine.run("nft", "list", "table", "inet", "egress_gateway")
        return sum(map(int, re.findall(r"log group 59756 counter packets (\d+)", listed)))

    with lab.capture("router", "eth1") as witness:
        begun = proven()
        until(lambda: proven() >= begun + 6, "probes of three rounds have passed", 20)
        assert witness.packets(443) == []
        assert "dport=443 " not in machine.run("conntrack", "-L")
        # The witness sees what does leave for that port.
        lab.serve("outside", 443)
        lab.nodes["w1"].pod("control", BACKEND).datagram(443)
        until(lambda: witness.sources(443) == {VIRTUAL}, "the pod's packet")


def test_an_interface_that_takes_smaller_packets_than_the_tunnels_is_a_problem(lab: Lab) -> None:
    """No reason: senders learn the size from the node's errors."""
    master = lab.wait_settled(GATEWAY)
    node = lab.nodes[master]
    interface = node.host.interfaces[-1].name

    def said() -> list[str]:
        return [str(p["message"]) for p in node.agent.status()["problems"] if p["source"] == "path"]

    node.machine.ip(f"link set {interface} mtu 1400")
    try:
        until(lambda: any("more than 1400 bytes" in message for message in said()), "a problem", NAMED_S)
        found = examined(lab, master)
        assert any("more than 1400 bytes" in each for each in found), found
        assert reason_of(lab, master) == ""
    finally:
        node.machine.ip(f"link set {interface} mtu 1500")
    until(lambda: said() == [], "no problem", NAMED_S)


def test_a_firewall_that_lets_nothing_in_from_the_own_address_is_a_problem_and_no_reason(lab: Lab) -> None:
    """Packets of other nodes may pass it."""
    master = lab.wait_settled(GATEWAY)
    machine = lab.nodes[master].machine
    guard = "table inet site { chain in { type filter hook input priority 0; iif lo udp dport 4799 drop; }; }"

    def said() -> str:
        problems = lab.nodes[master].agent.status()["problems"]
        return next((str(p["message"]) for p in problems if p["source"] == "path"), "")

    machine.run("sh", "-ec", f"echo {shlex.quote(guard)} | nft -f -")
    try:
        until(lambda: "lets nothing in from its own address by lo" in said(), "a problem", 10)
        assert reason_of(lab, master) == ""
    finally:
        machine.run("sh", "-c", CLEAR)
    until(lambda: said() == "", "no problem", 10)
    assert reason_of(lab, master) == ""


def test_a_firewall_that_drops_answers_only_is_a_problem(lab: Lab) -> None:
    """The probes pass. The next master has the same firewall here, so it would be no reason to hand over."""
    lab.wait_settled(GATEWAY)
    nodes = [lab.nodes[name] for name in ("g1", "g2")]
    lab.serve("outside", 4444)
    pod = lab.nodes["w1"].pod("answers", BACKEND)

    def said() -> str:
        problems = [each for node in nodes for each in node.agent.status()["problems"]]
        return next((str(p["message"]) for p in problems if p["source"] == "path"), "")

    def judged(words: str) -> bool:
        """Return True if ``egressctl doctor`` on a master says so of the answers."""
        return any(words in found for node in nodes for found in examined(lab, node.name, "answers"))

    try:
        with lab.probing(pod, 4444):
            for node in nodes:
                node.machine.run(
                    "sh", "-ec", "iptables -A FORWARD -i egw-+ -j ACCEPT; iptables -P FORWARD DROP"
                )
            until(lambda: "answers from outside did not get into a tunnel" in said(), "a problem", 10)
            assert [reason_of(lab, node.name) for node in nodes] == ["", ""]
            until(lambda: judged("answers from outside did not get into a tunnel"), "doctor names it", 20)
            remedy = said().rpartition(", or ")[2]
            for node in nodes:
                node.machine.run("sh", "-ec", remedy)
            until(lambda: said() == "", "no problem", 10)
            until(lambda: judged("from outside got into a tunnel"), "doctor finds nothing", 20)
    finally:
        for node in nodes:
            node.machine.run("sh", "-c", CLEAR)
        pod.stop()


def test_without_our_rules_a_probe_gets_no_further_than_the_next_hop(lab: Lab) -> None:
    """Another program flushes all rules, and a probe comes before this node has made its own again."""
    machine = lab.nodes[lab.wait_settled(GATEWAY)].machine
    with lab.capture("router", "eth1") as next_hop, lab.capture() as beyond:

        def left() -> bool:
            machine.run("nft", "flush", "ruleset")
            return len(next_hop.packets(443)) >= 5

        until(left, "probes have left the node", 60)
        lab.wait_settled(GATEWAY)
        lab.serve("outside", 4443)
        lab.nodes["w1"].pod("after", BACKEND).datagram(4443)
        until(lambda: beyond.sources(4443) == {VIRTUAL}, "a pod's packet after them")
        assert beyond.packets(443) == []


@pytest.mark.parametrize("fault", NODE_FAULTS)
def test_a_route_or_setting_that_loses_packets_is_named(lab: Lab, fault: str) -> None:
    command, undo, message = NODE_FAULTS[fault]
    before = lab.wait_settled(GATEWAY)
    machine = lab.nodes[before].machine
    try:
        machine.run("sh", "-ec", command)
        until(lambda: message in reason_of(lab, before), f"{before} says {message}", NAMED_S)
        found = examined(lab, before)
        assert any(message in each for each in found), found
    finally:
        machine.run("sh", "-ec", undo)
    until(lambda: message not in reason_of(lab, before), f"{before} no longer says {message}", NAMED_S)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_firewall_that_drops_is_named_and_another_node_serves(lab: Lab, fault: str) -> None:
    """Both nodes serve in turns: one in its hold time serves where no other can."""
    commands, message = FAULTS[fault]
    before = until(lambda: lab.master(GATEWAY, asked="w1"), "the worker knows a master")
    machine = lab.nodes[before].machine
    try:
        machine.run("sh", "-ec", commands)
        until(lambda: message in reason_of(lab, before), f"{before} says {message}", NAMED_S)
        found = examined(lab, before)
        assert any(message in each for each in found), found
        until(lambda: lab.master(GATEWAY, asked="w1") not in ("", before), "another master", NAMED_S)
        remedy = reason_of(lab, before).rpartition(": ")[2]
        if remedy.startswith("firewall-cmd"):
            remedy = "nft insert rule inet firewalld filter_FORWARD_POLICIES iifname egw-* accept"
        elif remedy.startswith("ufw route"):
            remedy = "iptables -A ufw-user-forward -i egw-+ -j ACCEPT"
        assert re.match("iptables|nft ", remedy)
        machine.run("sh", "-ec", remedy)
        # The node may wait for its hold time now.
        until(
            lambda: "do not get from" not in reason_of(lab, before),
            f"{before} is open after {remedy}",
            NAMED_S,
        )
    finally:
        machine.run("sh", "-c", CLEAR)
