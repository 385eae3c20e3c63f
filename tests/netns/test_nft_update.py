"""Whatever plan follows whatever other, the kernel ends up with what a whole replacement would have made."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni.datapath.nft_blocks import chain, transaction
from cni.datapath.objects import node_nft
from cni.kernel import ids
from cni.kernel.nftables import nft
from cni.plan import Destination, Plan, PlanEgressIP, PlanNode, PolicySet
from tests.lab.namespace import Namespace

NODES = (PlanNode("g1", "10.0.0.1"), PlanNode("w1", "10.0.0.11"))
INVENTORIES = (
    NODES,
    (*NODES, PlanNode("w2", "10.0.0.12")),
    (PlanNode("g1", "fd00::1"), PlanNode("w1", "fd00::11")),
)
IDS = tuple(ids.egress_id(name, "") for name in ("a", "b", "c"))
PREFIXES = ("203.0.113.0/25", "203.0.113.128/25", "198.51.100.0/24", "0.0.0.0/2", "2001:db8::/32")


def _egress(number: int, master: str, direct: bool, interface: str) -> PlanEgressIP:
    identity = IDS[number - 1]
    here: dict[str, Any] = {"interface": interface, "source": "172.16.0.7"} if interface else {}
    return PlanEgressIP(identity, "g", "", number, ids.vni(identity), ("g1",), master, 1, direct, **here)


egress_ips = st.sets(st.integers(1, 3)).flatmap(
    lambda numbers: st.tuples(
        *(
            st.builds(
                _egress, st.just(n), st.sampled_from(["", "g1"]), st.booleans(), st.sampled_from(["", "eth1"])
            )
            for n in sorted(numbers)
        )
    )
)
destinations = st.sets(st.sampled_from(PREFIXES)).flatmap(
    lambda prefixes: st.tuples(
        *(st.builds(Destination, st.just(p), st.sampled_from(IDS)) for p in sorted(prefixes))
    )
)
policy_sets = st.sets(st.integers(1, 4)).flatmap(
    lambda numbers: st.tuples(
        *(st.builds(PolicySet, st.just(n), st.just(()), st.just(()), destinations) for n in sorted(numbers))
    )
)
plans = st.builds(
    lambda node, nodes, egress, sets: Plan(node, 0x0FF00000, 4799, 1450, nodes, egress, policy_sets=sets),
    st.sampled_from(["g1", "w1"]),
    st.sampled_from(INVENTORIES),
    egress_ips,
    policy_sets,
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Namespace]:
    namespace = Namespace("egwdp-update")
    namespace.create()
    try:
        yield namespace
    finally:
        namespace.delete()


def listed() -> dict[str, list[str]]:
    """Blocks of our tables and elements of maps, sorted: an update leaves them in another order."""
    found = {}
    for table in ("bridge egress_gateway", "inet egress_gateway"):
        text = re.sub(
            r"\tchain stamp_\w+ \{\n\t\}\n", "", nft.run("-s", "-n", "list", "table", *table.split())
        )
        text = re.sub(r"elements = \{([^}]*)\}", lambda m: str(sorted(re.split(r",\s+", m[1].strip()))), text)
        found[table] = sorted(re.findall(r"^\t(?:chain|map) .*?^\t\}$", text, re.MULTILINE | re.DOTALL))
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(plans, min_size=2, max_size=5))
def test_an_update_ends_where_a_replacement_would(machine: Namespace, history: list[Plan]) -> None:
    last = node_nft(history[-1])

    def by_updates() -> dict[str, list[str]]:
        for plan in history:
            nft.ensure(node_nft(plan))
            assert nft.missing(node_nft(plan)) == ()
        return listed()

    def at_once() -> dict[str, list[str]]:
        nft.apply(last)
        return listed()

    assert machine.inside(by_updates) == machine.inside(at_once)


def test_an_update_says_so_and_a_touched_table_is_replaced(machine: Namespace) -> None:
    first, second = (
        node_nft(Plan("w1", 0x0FF00000, 4799, 1450, NODES, policy_sets=(PolicySet(n, (), (), ()),)))
        for n in (1, 2)
    )

    def scenario() -> list[tuple[str, ...]]:
        nft.apply(first)
        done = [nft.ensure(second)]
        nft.run("add", "chain", "inet", "egress_gateway", "extra")
        return [*done, nft.ensure(first)]

    updated, replaced = machine.inside(scenario)
    assert updated == tuple(
        f"updated nftables table {f} egress_gateway: out of date" for f in ("bridge", "inet")
    )
    assert "replaced nftables table inet egress_gateway: changed by another program" in replaced


@pytest.mark.parametrize("damage", ["broken off", "half made", "out of date"])
def test_what_was_written_at_run_time_outlives_a_replacement(machine: Namespace, damage: str) -> None:
    """The lease daemon's leases above all: without them the fence is closed until the next renewal."""
    leases = "\tset leases {\n\t\ttype ipv4_addr\n\t\tflags timeout\n\t}\n"
    texts = [transaction("inet", "kept", [leases, chain("c", [f"ip saddr @leases {verdict}"])])
             for verdict in ("accept", "drop")]  # fmt: skip

    def scenario() -> str:
        nft.apply(texts[0])
        nft.run("add", "element", "inet", "kept", "leases", "{ 192.0.2.1 timeout 1h }")
        if damage in ("broken off", "half made"):
            [stamp] = re.findall(r"chain (stamp_\w+)", nft.run("list", "table", "inet", "kept"))
            nft.run("delete", "chain", "inet", "kept", stamp)
        if damage == "half made":
            nft.run("add", "chain", "inet", "kept", "extra")
        if damage == "out of date":
            # Another process made it: this one does not know the text.
            nft._applied.clear()
        assert nft.ensure(texts[1])[0].startswith("replaced")
        assert nft.missing(texts[1]) == ()
        return nft.run("list", "table", "inet", "kept")

    table = machine.inside(scenario)
    assert "192.0.2.1 timeout 1h" in table
    assert "extra" not in table


def test_texts_about_different_tables_are_updated_each_for_itself(machine: Namespace) -> None:
    def table(name: str, *rules: str) -> str:
        return transaction("inet", name, [chain("c", rules)])

    def scenario() -> tuple[str, ...]:
        nft.apply(table("one", "accept"))
        nft.apply(table("two", "accept"))
        return nft.ensure(table("one", "drop"))

    assert machine.inside(scenario) == ("updated nftables table inet one: out of date",)


def test_what_another_program_changes_in_the_same_moment_does_not_pass_for_ours(
    machine: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program adds a rule right behind the transaction, before the result is looked at."""
    real = shutil.which("nft", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    program = tmp_path / "nft"
    program.write_text(
        f"""#!/bin/sh
{real} "$@" || exit
if [ "$1" = -f ] && [ ! -e {tmp_path}/done ]; then
    touch {tmp_path}/done
    {real} add rule inet busy c accept
fi
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    text = transaction("inet", "busy", [chain("c", ["drop"])])
    machine.inside(lambda: nft.apply(text))
    listing = machine.run("nft", "list", "chain", "inet", "busy", "c")
    assert (tmp_path / "done").exists()
    assert "drop" in listing
    assert "accept" not in listing
