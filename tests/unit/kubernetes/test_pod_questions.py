"""The request of a pod start to the API: the present policies, and those that the watch has not delivered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway_agent.kubernetes.objects import Names
from gateway_agent.manifests.store import NotKnown
from tests.lab.apiserver.local import LocalServer

from .cluster_scenario import POLICIES, Reader, asked, policies, policy, run_scenario

PRESENT = 3
"""Policies that are there before pods start together."""


def pod(server: LocalServer, name: str) -> str:
    return server.cluster.run("prod", name, "w1", {"app": "backend"})


def item(name: str, version: str) -> dict[str, dict[str, str]]:
    return {"metadata": {"name": name, "resourceVersion": version}}


def test_what_is_new_changed_or_deleted_is_late() -> None:
    known = {("", name): item(name, "5") for name in ("same", "edited", "deleted")}
    known["", "made since"] = item("made since", "9")
    listed = (item("same", "5"), item("edited", "6"), item("new", "7"))
    late = [("", "edited"), ("", "new"), ("", "deleted")]
    assert Names(listed, "8").late(known) == late
    # Versions without an order: that an object is not listed says nothing.
    assert Names(listed, "x").late(known) == late[:2]
    assert not Names().late(known)


def test_a_pod_waits_for_a_deletion_that_the_watch_does_not_deliver(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(policies)
        server.cluster.strike(match="watch", deaf=True)
        server.cluster.delete(f"{POLICIES}/backend")
        with pytest.raises(NotKnown, match="EgressGatewayPolicy backend yet"):
            await reader.store.for_pod("prod", "a", pod(server, "a"))
        server.cluster.strike()
        inventory = await reader.store.for_pod("prod", "a", "")
        assert inventory is not None
        assert not policies(inventory)

    run_scenario(tmp_path, scenario, policy)


def test_pods_that_start_together_ask_together(tmp_path: Path) -> None:
    async def scenario(reader: Reader, server: LocalServer) -> None:
        await reader.until(lambda inventory: len(policies(inventory)) == PRESENT)
        names = [f"pod-{number}" for number in range(20)]
        uids = {name: pod(server, name) for name in names}
        await reader.until(lambda inventory: len(inventory.pods) == len(names))
        before = asked(server, f"GET {POLICIES}")
        server.cluster.strike(match="egressgatewaypolicies", latency=0.05)
        first = [asyncio.create_task(reader.store.for_pod("prod", name, uids[name])) for name in names[:10]]
        # These come while the question of the others is on its way, which may be older than they are.
        while asked(server, f"GET {POLICIES}") == before:
            await asyncio.sleep(0.001)
        policy(server, "later")
        later = [reader.store.for_pod("prod", name, uids[name]) for name in names[10:]]
        for inventory in await asyncio.gather(*later):
            assert inventory is not None
            assert "later" in policies(inventory)
        await asyncio.gather(*first)
        assert asked(server, f"GET {POLICIES}") - before == 2

    def begin(server: LocalServer) -> None:
        for number in range(PRESENT):
            policy(server, f"policy-{number}")

    run_scenario(tmp_path, scenario, begin)
