"""``egressctl doctor`` on a real kernel: it lists what is ours, and nothing else."""

from __future__ import annotations

import fcntl
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cni.calls import attachments
from cni.calls.attachments import Attachment
from cni.datapath import reconcile as datapath
from cni.kernel import ids, rtnl
from cni.kernel.netlink import links
from cni.kernel.nftables import nft
from gateway_agent.ctl.clean import RUNNING, clean
from gateway_agent.ctl.client import NoAnswer
from gateway_agent.ctl.doctor import Finding, examine
from gateway_agent.gateway_rules.fence import fence_nft
from gateway_agent.gateway_rules.pod_guard import guard_nft
from gateway_agent.gateway_rules.snat import gateway_nft
from gateway_agent.kubernetes.last_known import LAST_KNOWN
from gateway_agent.lease_daemon.kernel.vip_addresses import Addresses
from tests.lab.namespace import Namespace

from .datapath_lab import SOURCES, plan

VIRTUAL = "172.16.0.50"


@pytest.fixture
def node() -> Iterator[Namespace]:
    """Yield an egress node's interfaces, without anything of ours."""
    made = Namespace("egwdoc-g1")
    made.delete()
    try:
        made.create()
        made.ip(
            "link add eth0 type veth peer name far0",
            "link add eth1 type veth peer name far1",
            "address add 10.0.0.1/24 dev eth0",
            f"address add {SOURCES['g1']}/24 dev eth1",
            *(f"link set {name} up" for name in ("eth0", "far0", "eth1", "far1")),
        )
        yield made
    finally:
        made.delete()


def findings(node: Namespace) -> dict[str, Finding]:
    """Return the findings that are checks with a result."""
    return {finding.what: finding for finding in node.inside(lambda: examine(None)) if finding.judged}


def ours(node: Namespace) -> list[str]:
    return [finding.found for finding in node.inside(lambda: examine(None)) if finding.what == "ours"]


def foreign_objects(node: Namespace) -> None:
    """One of each kind that we have too, as near to ours as names and numbers can be."""
    node.ip(
        "link add vxlan0 type vxlan id 77 dstport 4799 local 10.0.0.1 nolearning",
        "link add egw-veth type veth peer name egw-far",
        "link set egw-veth group 7",
        "address add 172.16.0.51/32 dev eth1",
        "neighbour add 10.0.0.9 lladdr 02:e9:0a:00:00:09 dev eth0 nud permanent",
        "route add default via 10.0.0.254 dev eth0 table 7001",
        "route add 198.51.100.0/24 via 10.0.0.254 dev eth0 proto 234",
        "rule add priority 901 fwmark 0x100000/0xff00000 lookup 7001",
    )
    node.run("nft", "-f", "-", text="table inet egress_gateway_too {\n}\ntable ip egress_gateway {\n}\n")


def test_a_node_without_anything_of_ours(node: Namespace) -> None:
    assert ours(node) == []
    foreign_objects(node)
    assert ours(node) == []


def everything_of_ours(node: Namespace) -> None:
    wanted = plan("g1")
    node.ip("link add veth1 type veth peer name veth1-far")

    def install() -> None:
        assert not datapath.ensure(wanted).refused
        nft.ensure(gateway_nft(wanted))
        nft.ensure(fence_nft([VIRTUAL], ["eth0", "eth1"]))
        nft.ensure(guard_nft((), ()))
        links.tag("veth1", ids.GROUP_BASE + 1)
        links.tag("veth1-far", ids.GROUP_UNSELECTED)
        addresses = Addresses()
        addresses.add(VIRTUAL, "eth1")
        addresses.close()

    node.inside(install)


def everything(node: Namespace) -> tuple[str, ...]:
    """All that is in the node's kernel, whoever's it is."""
    listings = (("ip", "-d", "link"), ("ip", "address"), ("ip", "neighbour"), ("ip", "rule"), ("ip", "-6", "rule"),
                ("ip", "route", "show", "table", "all"), ("nft", "list", "ruleset"))  # fmt: skip
    return tuple(node.run(*listing) for listing in listings)


def test_all_that_is_ours_and_nothing_else(node: Namespace) -> None:
    foreign_objects(node)
    everything_of_ours(node)
    found = ours(node)
    assert found
    state = node.inside(rtnl.observe)
    assert {str(item) for item in state} <= set(found), "devices, settings, entries, routes and rules"
    assert {type(item).__name__ for item in state} >= {"Vxlan", "Address", "Fdb", "Route", "Rule"}
    rest = sorted(set(found) - {str(item) for item in state})
    assert rest == [
        f"interface veth1 has group {ids.GROUP_BASE + 1:#x}",
        f"interface veth1-far has group {ids.GROUP_UNSELECTED:#x}",
        "nftables table bridge egress_gateway",
        "nftables table bridge egress_gateway_guard",
        "nftables table inet egress_gateway",
        "nftables table inet egress_gateway_guard",
        "nftables table inet egress_gateway_snat",
        "nftables table netdev egress_gateway_fence",
        f"virtual address {VIRTUAL} on eth1",
    ]
    assert not [line for line in found if "vxlan0" in line or "egw-veth" in line or "172.16.0.51" in line]


def test_looking_changes_nothing(node: Namespace) -> None:
    foreign_objects(node)
    before = everything(node)
    assert ours(node) == []
    assert everything(node) == before


def test_cleaning_takes_away_all_that_is_ours_and_nothing_else(node: Namespace, tmp_path: Path) -> None:
    foreign_objects(node)
    # One that stands in the very place of ours is replaced by it.
    node.ip("route del default table 7001", "link add veth1 type veth peer name veth1-far")
    before = everything(node)
    node.ip("link del veth1")
    everything_of_ours(node)
    (tmp_path / "attachments").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "last-good").symlink_to(tmp_path / "elsewhere")
    ours_there = "plan.json", "plan.outdated", "attachments/one", "conntrackd-all.conf"
    for name in (*ours_there, "elsewhere/foreign", "foreign.json"):
        (tmp_path / name).touch()
    done = node.inside(lambda: list(clean(tmp_path, tmp_path / "state")))
    assert ours(node) == []
    assert len(done) > 10
    assert {path.name for path in tmp_path.iterdir()} == {*RUNNING, "elsewhere", "foreign.json"}
    assert (tmp_path / "elsewhere" / "foreign").exists()
    assert lines(everything(node)) == lines(before)
    assert node.inside(lambda: list(clean(tmp_path, tmp_path / "state"))) == []


def lines(listings: tuple[str, ...]) -> list[str]:
    """Without what an interface that is made anew has another of."""
    text = re.sub(r"(?m)^\d+: |link/ether \S+|^.*fe80::.*$", "", "\n".join(listings))
    return sorted(line.rstrip() for line in text.splitlines() if line.strip())


@pytest.mark.parametrize("name", ["agent.lock", "keeper.lock", "plugin.lock"])
def test_where_something_runs_nothing_is_cleaned(node: Namespace, tmp_path: Path, name: str) -> None:
    everything_of_ours(node)
    before = ours(node)
    with (tmp_path / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(NoAnswer, match="runs on this node"):
            node.inside(lambda: list(clean(tmp_path, tmp_path / "state")))
    assert ours(node) == before


def test_what_may_be_wrong_with_the_node(node: Namespace) -> None:
    node.sysctl({"net/ipv4/ip_forward": "0"})
    forwarding = findings(node)["net.ipv4.ip_forward"]
    assert forwarding.wrong
    assert forwarding.hint == "an egress node needs sysctl -w net.ipv4.ip_forward=1"
    node.sysctl({"net/ipv4/ip_forward": "1"})
    found = findings(node)
    assert not found["net.ipv4.ip_forward"].wrong
    assert not found["nft"].wrong
    assert not found["kernel"].wrong, "this test needs a kernel that has virtual addresses"


MANIFESTS = """
apiVersion: egress-gateway.io/v1alpha1
kind: EgressGateway
metadata: {name: partner}
spec:
  nodeSelector: {role: egress}
  sourceIP:
    mode: VirtualIPAddress
    virtualIPAddress: {ip: 172.16.0.50}
---
apiVersion: v1
kind: Node
metadata: {name: g1, labels: {role: egress}}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: ExternalIP, address: 198.51.100.7}]}
"""


def test_an_address_of_the_node_that_no_object_names_is_listed(node: Namespace, tmp_path: Path) -> None:
    """What selected pods send to it goes by their gateway: not silently."""
    node.ip(
        "address add 198.51.100.7/32 dev eth1",
        "address add 192.0.2.9/24 dev eth1",
        "address add 2001:db8::9/64 dev eth0 nodad",
        "link add cni0 type bridge",
        "link set cni0 up",
        "address add 10.244.1.1/24 dev cni0",
        "link add veth1 type veth peer name veth1-far",
        "link set veth1 master cni0",
    )
    node.inside(lambda: Addresses().add(VIRTUAL, "eth1"))
    store = tmp_path / "manifests"
    store.mkdir()
    (store / "all.yaml").write_text(MANIFESTS)
    (store / "broken.yaml").write_text("kind: [")
    files = f"{{kind: files, path: {store}}}"

    def named(store: str = files, cluster: str = "10.96.0.0/12") -> list[str]:
        """In a process of its own: what lists interfaces looks at those of the whole process."""
        config = tmp_path / "agent.yaml"
        config.write_text(f"{{nodeName: g1, store: {store}, runDir: {tmp_path}, clusterCIDRs: [{cluster}]}}")
        doctor = f"{sys.executable} -m gateway_agent.ctl --config {config} doctor -o json || true"
        findings = json.loads(node.run("sh", "-c", doctor))
        found = [finding for finding in findings if finding["what"] == "address"]
        assert all("ExternalIP" in finding["hint"] and not finding["judged"] for finding in found)
        return sorted(finding["found"].partition(": no Node")[0] for finding in found)

    unnamed = ["10.244.1.1 on cni0", f"{SOURCES['g1']} on eth1", "192.0.2.9 on eth1", "2001:db8::9 on eth0"]
    assert named() == unnamed
    # The bridge of pods is not the node's.
    attachments.write(tmp_path, Attachment("c1", "eth0", "", "veth1", "prod", "web", "", {}, ()))
    assert named() == unnamed[1:]
    assert named(cluster='172.16.0.0/16, 192.0.2.0/24, "2001:db8::/64"') == []
    # With Kubernetes, by what the agent has stored.
    kept = {item["kind"]: [item] for item in yaml.safe_load_all(MANIFESTS)}
    (tmp_path / LAST_KNOWN).write_text(json.dumps(kept))
    assert named("{kind: kubernetes}") == unnamed[1:]
    (tmp_path / LAST_KNOWN).unlink()
    assert named("{kind: kubernetes}") == []


def test_what_ipv6_depends_on_is_shown_and_not_judged(node: Namespace) -> None:
    node.sysctl({"net/ipv6/conf/all/forwarding": "1", "net/ipv4/conf/all/rp_filter": "2"})
    try:
        found = {finding.what: finding for finding in node.inside(lambda: examine(None))}
        forwarding, check = found["net.ipv6.conf.all.forwarding"], found["net.ipv4.conf.all.rp_filter"]
        assert (forwarding.found, check.found) == ("1", "2")
        assert not forwarding.judged and not check.judged
    finally:
        node.sysctl({"net/ipv6/conf/all/forwarding": "0", "net/ipv4/conf/all/rp_filter": "0"})
