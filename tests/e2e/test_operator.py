"""What an operator sees, and that nobody else's things in the kernel are touched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cni.kernel import ids

from ..lab import documents, topology
from ..lab.agent import EGRESSCTL, PROGRAM
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

STATUS = {"node", "roles", "egressIPs", "members", "problems"}
EGRESS_IP = {"gateway", "ip", "mode", "master", "epoch", "since", "state", "reason", "pods"}
MEMBER = {"node", "alive", "ready", "reason", "lastHeardMs"}
POD = {"namespace", "name", "interface", "policies", "gateway", "ip", "via"}
DESTINATION = "203.0.113.10"

FOREIGN_NFT = """\
table inet foreign {
	set whatever {
		type ipv4_addr
		elements = { 192.0.2.1, 192.0.2.2 }
	}

	chain marks {
		type filter hook prerouting priority mangle; policy accept;
		meta mark set meta mark | 0x00004001
		ct mark set ct mark | 0x00000002
	}

	chain out {
		type filter hook postrouting priority srcnat; policy accept;
		meta mark & 0x00004001 == 0x00004001 counter
	}
}
table bridge foreign_bridge {
	chain in {
		type filter hook prerouting priority -200; policy accept;
		meta mark set meta mark | 0x00000008
	}
}
"""
FOREIGN_IP = (
    "link add foreign0 type veth peer name foreign1",
    "link set foreign0 group 77",
    "link set foreign1 group default",
    "link add foreign-vx type vxlan id 77 dstport 4789 local {address}",
    "address add 192.0.2.1/24 dev foreign0",
    "link set foreign0 up",
    "link set foreign1 up",
    "rule add priority 899 fwmark 0x1/0x4001 lookup 6999",
    "rule add priority 5000 fwmark 0x100000/0xff00000 lookup 7001 protocol 44",
    "route add 198.51.100.0/24 dev foreign0 table 6999",
    "route add 198.51.100.0/24 dev foreign0 table 7001 protocol static",
    "neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev foreign0 nud permanent",
)


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_operator", topology.separate(workers=1, gateways=2)) as made:
        yield made


@pytest.fixture(scope="module")
def pod(lab: Lab) -> Pod:
    started = lab.nodes["w1"].pod("shown", BACKEND)
    assert started.request(SELECTED).address == lab.nodes[lab.wait_settled(GATEWAY)].host.egress_ip
    return started


def asked(node: Node, *arguments: str) -> Any:
    return json.loads(node.egressctl("-o", "json", *arguments))


def ended(node: Node, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Return a program on a node, however it ends."""
    message = node.machine.command(*map(str, command))
    done = subprocess.run(message, capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in done.stderr
    return done


# -- egressctl


def test_status(lab: Lab, pod: Pod) -> None:
    master = lab.wait_settled(GATEWAY)
    worker, serving = asked(lab.nodes["w1"], "status"), asked(lab.nodes[master], "status")
    assert worker.keys() >= STATUS
    assert (worker["node"], worker["roles"], serving["roles"]) == ("w1", ["node"], ["node", "gateway"])
    [seen], [own] = worker["egressIPs"], serving["egressIPs"]
    assert seen.keys() >= EGRESS_IP
    assert (seen["state"], own["state"]) == ("none", "master")
    assert (seen["master"], seen["pods"], own["pods"]) == (master, 1, 0)
    assert seen["ip"] == own["ip"] == lab.nodes[master].host.egress_ip
    assert seen["since"] == own["since"]
    assert seen["since"].endswith("Z")
    for member in worker["members"]:
        assert member.keys() == MEMBER
        assert (member["alive"], member["ready"], member["reason"]) == (True, True, "")
        assert 0 <= member["lastHeardMs"] < 10_000
    assert worker["problems"] == serving["problems"] == []
    text = lab.nodes["w1"].egressctl("status")
    assert text.startswith("OK\nnode w1, roles: node\n")
    assert master in text


def test_pods(lab: Lab, pod: Pod) -> None:
    master = lab.wait_settled(GATEWAY)
    [row] = asked(lab.nodes["w1"], "pods")
    assert row.keys() >= POD
    assert row["interface"] == pod.host_interface
    assert (row["namespace"], row["name"], row["policies"]) == ("prod", "shown", [f"backend-to-{GATEWAY}"])
    assert (row["via"], row["ip"]) == (master, lab.nodes[master].host.egress_ip)
    assert "shown" in lab.nodes["w1"].egressctl("pods")


@pytest.mark.parametrize(
    ("destination", "verdict", "why"),
    [
        (DESTINATION, "gateway", "203.0.113.0/24 of policy"),
        ("198.51.100.1", "direct", "not among its destinations"),
        ("10.244.3.4", "direct", "cluster network"),
        ("10.0.0.7", "direct", "address of a node"),
    ],
)
def test_explain(lab: Lab, pod: Pod, destination: str, verdict: str, why: str) -> None:
    node = lab.nodes["w1"]
    answer = asked(node, "explain", "prod/shown", destination)
    assert answer["verdict"] == verdict
    assert any(why in f"{step['result']} {step['reason']}" for step in answer["steps"])
    assert why in node.egressctl("explain", "shown", destination)


def test_events_show_every_change_of_master(lab: Lab) -> None:
    before = lab.wait_settled(GATEWAY)
    known = asked(lab.nodes["w1"], "events")
    lab.nodes[before].agent.stop()
    try:
        after = until(
            lambda: next((e for e in asked(lab.nodes["w1"], "events")[len(known) :]), None), "an event"
        )
        assert (after["gateway"], after["before"], after["epoch"] > known[-1]["epoch"]) == (
            GATEWAY,
            before,
            True,
        )
        assert after["reason"]
        assert after["at"].endswith("Z")
        assert f"{before} -> {after['after']}" in lab.nodes["w1"].egressctl("events")
    finally:
        lab.nodes[before].agent.start()
    lab.wait_settled(GATEWAY)


def test_validate(lab: Lab, tmp_path: Path) -> None:
    node = lab.nodes["w1"]
    good = ended(node, EGRESSCTL, "validate", node.manifests, node.agent.config)
    assert (good.returncode, good.stderr) == (0, "")
    wrong = documents.policy("wrong", "nobody", BACKEND, ["203.0.113.0/42"])
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    bad = ended(node, EGRESSCTL, "-o", "json", "validate", tmp_path)
    [problem] = json.loads(bad.stdout)
    assert bad.returncode == 1
    assert problem.keys() == {"source", "path", "message", "hint"}
    assert (problem["source"], problem["path"]) == (str(tmp_path / "wrong.yaml"), "spec.destinationCIDRs[0]")


def test_exit_codes_and_last_lines(lab: Lab, pod: Pod, tmp_path: Path) -> None:
    node = lab.nodes["w1"]
    config = ("--config", node.agent.config)
    unknown = ended(node, EGRESSCTL, *config, "explain", "nobody")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no pod 'nobody' is known on node w1" in unknown.stderr
    bad = ended(node, EGRESSCTL, *config, "explain", "shown", "nowhere")
    assert (bad.returncode, "DESTINATION is an address" in bad.stderr) == (1, True)
    assert ended(node, EGRESSCTL, *config, "no-such-command").returncode == 2
    missing = ended(node, EGRESSCTL, "--config", tmp_path / "none.yaml", "status")
    assert (missing.returncode, "cannot be read" in missing.stderr) == (2, True)


def test_egressctl_without_an_agent(lab: Lab) -> None:
    node = lab.nodes["g2"]
    node.agent.stop()
    try:
        for command in ("status", "pods", "events"):
            away = ended(node, EGRESSCTL, "--config", node.agent.config, command)
            assert (away.returncode, away.stdout) == (1, "")
            assert f"no agent answers at {node.agent.socket}" in away.stderr
    finally:
        node.agent.start()
    lab.wait_settled(GATEWAY)


def test_check_validates_and_starts_nothing(lab: Lab, tmp_path: Path) -> None:
    node = lab.nodes["w1"]
    good = ended(node, PROGRAM, "--config", node.agent.config, "--check")
    assert (good.returncode, good.stdout) == (0, f"{node.agent.config}: valid\n")
    wrong = tmp_path / "agent.yaml"
    wrong.write_text(node.agent.config.read_text() + "lease: {duration: 1h}\nmetricz: {}\n")
    bad = ended(node, PROGRAM, "--config", wrong, "--check")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert f"{wrong}: lease.duration: " in bad.stderr
    assert f"{wrong}: metricz: unknown field" in bad.stderr


# -- other software


def kernel(node: Node) -> dict[str, str]:
    """Return the kernel's state as its tools print it, with everything that any program could have set."""
    found = {
        "rules": node.machine.run("ip", "rule"),
        "rules6": node.machine.run("ip", "-6", "rule"),
        "routes": node.machine.run("ip", "route", "show", "table", "all"),
        "routes6": node.machine.run("ip", "-6", "route", "show", "table", "all"),
        "nft": node.machine.run("nft", "-s", "list", "ruleset"),
        "links": node.machine.run("ip", "-d", "link"),
        "addresses": node.machine.run("ip", "-o", "address"),
        "neighbours": node.machine.run("ip", "neigh", "show", "nud", "permanent"),
    }
    return {name: without_ours(name, text) for name, text in found.items()}


def without_ours(kind: str, text: str) -> str:
    """Without what the design says is ours: by device, protocol, name of table."""
    if kind == "nft":
        tables = (f"table {part.strip()}" for part in f"\n{text}".split("\ntable ")[1:])
        return "\n".join(table for table in tables if table.split()[2] not in OUR_TABLES)
    if kind == "links":
        # One link has several lines, the later ones are indented; its number tells how many came before.
        links = re.sub(r"_timer +[0-9.]+", "", f"\n{text}").replace("\n ", "\0").split("\n")
        return "\n".join(link.partition(": ")[2] for link in links if f" {ids.DEVICE_PREFIX}" not in link)
    lines = (line.split(": ", 1)[-1] if kind == "addresses" else line for line in text.splitlines())
    ours = (ids.DEVICE_PREFIX, f"proto {ids.PROTOCOL}")
    return "\n".join(line for line in lines if not any(mark in line for mark in ours))


OUR_TABLES = (ids.NFT_NODE_INET, ids.NFT_NODE_BRIDGE, ids.NFT_GATEWAY, ids.NFT_FENCE)


@contextmanager
def stopped(lab: Lab, node: Node) -> Iterator[None]:
    """Stop the agent for the block, which may start it; afterwards it runs, and nothing more is in the store."""
    node.agent.stop()
    try:
        yield
    finally:
        if not node.agent.running:
            node.agent.start()
        lab.publish("more", [])
        lab.wait_settled(GATEWAY)


@pytest.mark.parametrize("name", ["w1", "g1"])
def test_nothing_of_others_is_touched_in_an_agents_life(lab: Lab, name: str) -> None:
    node = lab.nodes[name]
    with stopped(lab, node):
        node.machine.run("nft", "-f", "-", text=FOREIGN_NFT)
        node.machine.ip(*(line.format(address=node.host.ip) for line in FOREIGN_IP))
        node.machine.run("ip", "-6", "rule", "add", "priority", "898", "lookup", "6998")
        pod = node.pod(f"foreign-{name}", BACKEND)
        before = kernel(node)
        node.agent.start()
        lab.wait_settled(GATEWAY)
        outside = {lab.nodes[each].host.egress_ip for each in ("g1", "g2")}
        until(lambda: pod.request(SELECTED, 0.5).address in outside, "steering works beside others")
        assert kernel(node) == before
        lab.publish("more", [documents.policy("more", GATEWAY, {"app": "more"})])
        until(lambda: len(node.plan()["policies"]) == 2, "an edit is followed")
        node.agent.restart()
        node.agent.stop()
        assert kernel(node) == before
    pod.stop()


def test_what_is_ours_has_our_names_and_numbers(lab: Lab, pod: Pod) -> None:
    node = lab.nodes[lab.wait_settled(GATEWAY)]
    tables = {tuple(line.split()[1:]) for line in node.machine.run("nft", "list", "tables").splitlines()}
    assert tables >= {("inet", ids.NFT_NODE_INET), ("bridge", ids.NFT_NODE_BRIDGE), ("inet", ids.NFT_GATEWAY)}
    devices = json.loads(node.machine.run("ip", "-d", "-j", "link", "show", "type", "vxlan"))
    named = {
        link["ifname"]: link["linkinfo"]["info_data"]["id"]
        for link in devices
        if "foreign" not in link["ifname"]
    }
    number = ids.vni(ids.egress_id(GATEWAY, ""))
    assert named == {ids.device(number): number, ids.RETURN_DEVICE: ids.RETURN_VNI}
    rules = json.loads(node.machine.run("ip", "-d", "-j", "rule"))
    mine = [rule for rule in rules if rule.get("protocol") == str(ids.PROTOCOL)]
    assert {rule["priority"] for rule in mine} == {ids.RULE_PRIORITY_BASE, ids.RULE_PRIORITY_BASE + 1}
    routes = json.loads(node.machine.run("ip", "-d", "-j", "route", "show", "table", "all"))
    tables_of_ours = {str(ids.TABLE_BASE), str(ids.TABLE_BASE + 1)}
    ours = [r for r in routes if r.get("table") in tables_of_ours and r["dst"] == "default"]
    assert ours
    assert {route["protocol"] for route in ours} == {str(ids.PROTOCOL)}
    worker = lab.nodes["w1"]
    [link] = json.loads(worker.machine.run("ip", "-j", "link", "show", "dev", pod.host_interface))
    assert ids.GROUP_BASE < int(link["group"]) < ids.GROUP_BLOCKED


def test_modes_of_files_and_socket(lab: Lab, pod: Pod) -> None:
    run_dir = lab.nodes["w1"].agent.run_dir
    assert run_dir.stat().st_mode & 0o777 == 0o700
    for path in run_dir.rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert path.stat().st_mode & 0o777 == expected, path


def planned(run_dir: Path) -> object:
    """Return the plugin's plan without what a lease decides, which may move at any time; None if there is none."""
    path = run_dir / "plan.json"
    plan = json.loads(path.read_text()) if path.exists() else None
    if plan is None:
        return None
    for egress_ip in plan["egress_ips"]:
        for of_the_lease in ("epoch", "master"):
            egress_ip.pop(of_the_lease, None)
    return plan


def test_an_emptied_run_directory_is_made_again(lab: Lab, pod: Pod) -> None:
    agent = lab.nodes["w1"].agent
    before = planned(agent.run_dir)
    shutil.rmtree(agent.run_dir)
    until(lambda: agent.answers(), "the agent can be reached again", seconds=20)
    until(lambda: planned(agent.run_dir) == before, "the plugin's plan is there again", seconds=20)
    assert lab.nodes["w1"].pod("after", BACKEND).request(SELECTED).address == pod.request(SELECTED).address


def test_the_process_keeps_its_name_over_a_restart(lab: Lab) -> None:
    agent = lab.nodes["w1"].agent
    name = Path(f"/proc/{agent.pid}/comm")
    before = name.read_text()
    assert before.startswith("egress-gateway")
    agent.restart()
    assert name.read_text() == before


def test_a_second_agent_in_the_network_namespace_ends_with_a_reason(lab: Lab, tmp_path: Path) -> None:
    node = lab.nodes["w1"]
    other = tmp_path / "agent.yaml"
    other.write_text(f"nodeName: w1\nrunDir: {tmp_path}/run\nstore: {{kind: files, path: {tmp_path}}}\n")
    done = ended(node, PROGRAM, "--config", other)
    assert done.returncode == 1
    assert f"another agent runs in this network namespace: process {node.agent.pid}" in done.stderr
