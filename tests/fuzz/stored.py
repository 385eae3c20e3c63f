"""What an earlier process, or the Kubernetes API, has left: damaged files and lines of a watch."""

from __future__ import annotations

import dataclasses
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from cni import plan
from cni.calls import attachments
from cni.calls.attachments import Attachment
from cni.plan import PodIdentity
from gateway_agent.kubernetes import client, last_known, objects
from gateway_agent.kubernetes.reflector import Reflector
from gateway_agent.lease.voting.voter_set import Memory, VoterSet
from gateway_agent.lease_daemon.voter_state_file import Stored, VoterStateFile, boot_id
from gateway_agent.manifests import parsing
from gateway_agent.policy import planner
from gateway_agent.policy.quarantine import Quarantine

from .calls import text
from .frames import some
from .manifests import CASES, FACTS, GOOD, SETTINGS
from .values import mutated

INVENTORY = parsing.assemble(
    {str(i): parsing.parse_object("good", document) for i, document in enumerate(GOOD)}
)
PLAN: Any = json.loads(plan.dumps(planner.build(INVENTORY, SETTINGS, FACTS, {}).plan))
for _policy_set in PLAN["policy_sets"]:
    # Dozens of them: two say as much.
    del _policy_set["ways"][2:]
_RECORD = Attachment(
    "c1", "eth0", "/run/netns/x", "veth1", "prod", "web-0", "u", {"app": "good"}, ("10.1.0.5",), 7, "pods"
)
RECORD: Any = json.loads(attachments.dumps(_RECORD))
_MEMORY = Memory(VoterSet(1, ("g1", "w1")), None, (1, "g1"), 250_000_000, 1, 1)
MEMORY: Any = json.loads(msgspec.json.encode(Stored(boot_id(), _MEMORY)))
EVENTS = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "?")
RESOURCES = {resource.kind: resource for resource in objects.resources("egress-gateway.io", "w1", "x")}


def once(rng: random.Random) -> None:
    """Try one damaged file of each kind, and one line of a watch."""
    check_plan(some(text(mutated(PLAN, rng), rng), rng))
    check_record(some(text(mutated(RECORD, rng), rng), rng))
    event = {"type": rng.choice(EVENTS), "object": rng.choice(CASES)}
    line = some(text(mutated(event, rng), rng), rng)
    check_watch(rng.choice(list(RESOURCES)), line)
    check_memory(some(text(mutated(MEMORY, rng), rng), rng))
    check_last_known(
        some(text(mutated({"Node": [GOOD[2]], "Pod": [CASES[5]], "ConfigMap": []}, rng), rng), rng)
    )


def check_plan(data: bytes) -> None:
    """Read a plan: one that can be followed and written again, or ValueError."""
    try:
        read = plan.loads(data.decode())
    except ValueError:
        return
    assert plan.loads(plan.dumps(read)) == read
    Quarantine().search(INVENTORY, lambda inventory: planner.build(inventory, SETTINGS, FACTS, {}, read))


def check_record(data: bytes) -> None:
    """Read the record of a pod's interface: one of the right types, or ValueError."""
    try:
        record = attachments.loads(data.decode())
    except ValueError:
        return
    assert attachments.loads(attachments.dumps(record)) == record
    pod = PodIdentity(record.namespace, record.name, record.labels)
    planner.build(INVENTORY, SETTINGS, FACTS, {}, pods=[pod])
    assert all(
        isinstance(getattr(record, f.name), str) for f in dataclasses.fields(record) if f.type == "str"
    )


def check_watch(kind: str, line: bytes) -> None:
    """Take one line of a watch: an event that is taken, or ApiError."""
    reflector = Reflector()
    try:
        with client._translated():
            event = msgspec.json.decode(line, type=client._Event)
    except client.ApiError:
        return
    resource = RESOURCES[kind]
    reflector.event(
        event.type, event.object if event.type == "ERROR" else objects.prune(resource, event.object)
    )
    objects.InventoryBuilder().inventory(reflector.objects.values())


def check_memory(data: bytes) -> None:
    """Read what a voter remembers: that, or nothing."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "voters.json"
        file.write_bytes(data)
        VoterStateFile(file).load()


def check_last_known(data: bytes) -> None:
    """Read what the API said to an earlier process: objects, or nothing."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "last-known.json"
        file.write_bytes(data)
        known = last_known.read(file)
    objects.InventoryBuilder().inventory(item for items in known.values() for item in items.values())
