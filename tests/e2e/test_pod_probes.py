"""``egressctl test``: packets that a pod of the node could have sent, and what the outside saw of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni.kernel import ids

from ..lab import documents, topology
from ..lab.agent import EGRESSCTL
from ..lab.capture import Capture
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.topology import OUTSIDE, OUTSIDE6
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

ADDRESS = "172.16.0.50"
ADDRESS6 = topology.beside(ADDRESS)
DESTINATIONS = ["203.0.113.0/24", "2001:db8:113::/64"]
OTHER = "spare"
OBJECTS = [
    documents.virtual_gateway(GATEWAY, [ADDRESS, ADDRESS6]),
    documents.policy("backend", GATEWAY, BACKEND, DESTINATIONS),
    documents.virtual_gateway(OTHER, ["172.16.0.60"]),
]
HTTPS = 443
DROPPING = "table inet site { chain late { type filter hook forward priority 100; policy drop; }; }"


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    machines = topology.dual_stack(workers=1, gateways=2)
    with settled("test_pod_probes", machines, objects=OBJECTS) as made:
        until(lambda: all(masters(made).values()), "each address has a master", 20)
        yield made


def masters(lab: Lab) -> dict[str, str]:
    """By address, as the worker sees them."""
    status = json.loads(lab.nodes["w1"].egressctl("-o", "json", "status"))
    return {egress["ip"]: egress["master"] for egress in status["egressIPs"]}


def probed(node: Node, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code, and the line about each address."""
    command = str(EGRESSCTL), "--config", str(node.agent.config), "-o", "json", "test", *arguments
    message = node.machine.command(*command)
    done = subprocess.run(message, capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in done.stderr
    rows = json.loads(done.stdout)["tests"] if done.stdout else []
    return done.returncode, {row["ip"]: row for row in rows}


@pytest.mark.parametrize("name", ["w1", "g1", "g2"])
def test_each_node_gets_out_by_each_address_that_a_policy_uses(lab: Lab, name: str) -> None:
    """On a master without a tunnel, on others by one; the outside sees the address and nothing else."""
    with Capture(lab.machines["router"], "eth1") as wire:
        code, rows = probed(lab.nodes[name])
        until(lambda: len(wire.sources(HTTPS)) == 2, "both packets were seen outside")
        assert wire.sources(HTTPS) == {ADDRESS, ADDRESS6}
    assert {ip: row["result"] for ip, row in rows.items()} == {
        ADDRESS: "ok", ADDRESS6: "ok", "172.16.0.60": "untested"
    }  # fmt: skip
    assert code == 0
    for address in (ADDRESS, ADDRESS6):
        assert rows[address]["master"] == masters(lab)[address]
        shown = rows[address]["leftAs"]
        own = rows[address]["master"] == name
        assert shown.startswith((f"{address}:", f"[{address}]:")) if own else not shown


def test_one_node_lets_all_test(lab: Lab) -> None:
    command = (
        str(EGRESSCTL),
        "--config",
        str(lab.nodes["g2"].agent.config),
        "-o",
        "json",
        "test",
        GATEWAY,
        "--all",
    )
    message = lab.nodes["g2"].machine.command(*command, "--to", f"{OUTSIDE}:{SELECTED}")
    done = subprocess.run(message, capture_output=True, text=True, timeout=60, check=False)
    found = {(row["node"], row["ip"]): row for row in json.loads(done.stdout)["tests"]}
    for name in lab.nodes:
        assert found[name, ADDRESS]["result"] == "ok", found[name, ADDRESS]
        assert found[name, ADDRESS]["leftAs"].startswith(f"{ADDRESS}:")


@pytest.mark.parametrize(("to", "address"), [(OUTSIDE, ADDRESS), (f"[{OUTSIDE6}]", ADDRESS6)])
def test_a_service_outside_answers(lab: Lab, to: str, address: str) -> None:
    code, rows = probed(lab.nodes["w1"], GATEWAY, "--to", f"{to}:{SELECTED}")
    assert (rows[address]["answer"], rows[address]["answeredBy"]) == ("accepted", to.strip("[]"))
    assert rows[address]["leftAs"].startswith((f"{address}:", f"[{address}]:"))
    assert code == 0
    _, rows = probed(lab.nodes["w1"], GATEWAY, "--to", f"{to}:1")
    assert rows[address]["answer"] == "refused"


def test_a_master_that_drops_what_it_forwards_is_wrong(lab: Lab) -> None:
    """The lease moves for such a rule later, if another node can serve."""
    for name in ("g1", "g2"):
        lab.nodes[name].machine.run("nft", "-f", "-", text=DROPPING)
    try:
        code, rows = probed(lab.nodes["w1"], GATEWAY, "--to", f"{OUTSIDE}:{SELECTED}")
    finally:
        for name in ("g1", "g2"):
            lab.nodes[name].machine.run("nft", "delete table inet site")
    assert (code, rows[ADDRESS]["result"]) == (1, "wrong")
    assert rows[ADDRESS]["reason"].startswith(("no answer", "no master", "node g"))
    until(lambda: all(masters(lab).values()), "each address has a master again", 40)


def test_a_gateway_that_is_not_there(lab: Lab) -> None:
    assert probed(lab.nodes["w1"], "nobody") == (1, {})


def test_nothing_is_left_behind(lab: Lab) -> None:
    node = lab.nodes["w1"]
    probed(node)
    assert ids.TEST_DEVICE not in node.machine.run("ip", "link")
    assert "169.254.233.16" not in node.machine.run("ip", "route")


def test_as_text(lab: Lab) -> None:
    text = lab.nodes["w1"].egressctl("test", GATEWAY)
    assert text.startswith("NODE")
    assert ADDRESS in text
