"""Validation finds what an agent finds: a real agent reads the same files, or has the same objects."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway_agent.adapters.files.files_store import FilesStore
from gateway_agent.config import AgentConfig, FilesStoreConfig
from gateway_agent.ctl.objects.trial_plans import Trial
from gateway_agent.ctl.objects.validate import validate
from gateway_agent.manifests.model import Inventory, Problem
from gateway_agent.policy.egress_ips import SELECTOR
from tests.fuzz.manifests import CASES, GOOD
from tests.fuzz.values import mutated
from tests.unit.agent.test_add_order import World, run_scenario
from tests.unit.agent.test_bad_objects import BAD

MANY = 130
"""Gateways and policies for which the default mask lacks numbers."""
CONFIG = AgentConfig("w1", FilesStoreConfig())


def of_agent(directory: Path, inventory: Inventory) -> tuple[Problem, ...]:
    """Return the problems of objects that the agent of node w1 finds: those of its store and of its plan."""
    found: list[Problem] = []

    async def scenario(world: World) -> None:
        await world.open_all(lambda: world.state.applied is not None)
        found.extend((*inventory.problems, *world.state.plan_problems))

    run_scenario(directory, scenario, inventory)
    return tuple(found)


def documents(rng: random.Random) -> list[Any]:
    """Return objects, some of them wrong, some of which contradict each other, and pods on the nodes' network."""
    found = [*GOOD, *(mutated(rng.choice(CASES), rng) for _ in range(rng.randrange(6)))]
    for _ in range(rng.randrange(3)):
        case = rng.choice(CASES)
        found.append({**case, "metadata": {**case["metadata"], "name": rng.choice(["case", "other"])}})
    for number in range(rng.randrange(3)):
        spec = {"hostNetwork": True, "nodeName": rng.choice(["w1", "case", ""])}
        metadata = {"name": f"host-{number}", "labels": {"app": rng.choice(["good", "x"])}}
        found.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    if rng.random() < 0.1:
        gateway, policy = GOOD[:2]
        for number in range(MANY):
            name = {"name": f"n{number}"}
            found.append({**gateway, "metadata": name})
            found.append(
                {**policy, "metadata": name, "spec": {**policy["spec"], "egressGatewayName": f"n{number}"}}
            )
    rng.shuffle(found)
    return found


def named(problems: tuple[Problem, ...]) -> set[tuple[str, str, str, str]]:
    return {(each.source, each.path, each.message, each.hint) for each in problems}


@pytest.mark.parametrize("seed", range(40))
def test_what_an_agent_finds_in_files_is_found_without_it(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    for number, document in enumerate(documents(rng)):
        (manifests / f"{number % 7}.yaml").open("a").write("---\n" + dumped(document))
    if rng.random() < 0.3:
        (manifests / "no-text.yaml").write_bytes(b"\xff\xfe")
    inventory = asyncio.run(FilesStore(manifests, tmp_path / "good").current())
    found = of_agent(tmp_path, inventory)
    outcome = validate([manifests])
    if not inventory.nodes:
        # In a cluster the nodes are not among the files: that is a note, once for all gateways.
        assert bool(outcome.notes) == bool(inventory.gateways)
        found = tuple(
            each for each in found if (each.source, each.path) != ("node w1", "") and each.path != SELECTOR
        )
    assert named(found) <= named(outcome.problems)


def dumped(document: Any) -> str:
    try:
        return yaml.safe_dump(document)
    except (yaml.YAMLError, ValueError, TypeError, UnicodeError, RecursionError):
        return repr(document)


@pytest.mark.parametrize("kind", BAD)
def test_an_object_on_which_planning_fails_is_named_as_the_agent_names_it(kind: str) -> None:
    inventory, name = BAD[kind]
    found = Trial(inventory, CONFIG, {}).problems()
    [problem] = [each for each in found if "cannot be planned" in each.message]
    assert str(problem).startswith(name)


def test_objects_that_only_together_cannot_be_planned_are_a_problem() -> None:
    """The same object twice: parsing lets none through, and no search finds it."""
    node = BAD["node"][0].nodes[-1]
    inventory = replace(BAD["node"][0], nodes=(*BAD["node"][0].nodes, node))
    found = Trial(inventory, CONFIG, {}).problems()
    assert any("cannot be planned" in each.message for each in found)


def test_a_configuration_that_no_plan_can_have_is_a_problem() -> None:
    found = Trial(BAD["policy"][0], replace(CONFIG, mark_mask=0), {}).problems()
    assert ["cannot be planned: ValueError" in each.message for each in found] == [True]


def test_no_objects_have_no_problems() -> None:
    assert Trial(Inventory(), CONFIG, {}).problems() == ()
