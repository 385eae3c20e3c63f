"""The stores of container engines: damaged data bases and answers, and a BoltDB file to damage."""

from __future__ import annotations

import json
import random
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway_agent.container_engines import documents
from gateway_agent.container_engines.bolt import LEAF, MAGIC, SUBBUCKET, VERSION, Bolt, _fnv
from gateway_agent.container_engines.documents import Container, EngineError, Listing
from gateway_agent.container_engines.stores import Podman
from gateway_agent.manifests.model import Inventory

from .calls import text
from .frames import some
from .stored import INVENTORY
from .values import mutated

PAGE = 4096
Tree = Mapping[bytes, "bytes | Tree"]
CONFIG: Any = {
    "id": "c1", "name": "web", "labels": {"app": "good"}, "createNetNS": True, "pod": "p1", "pause": True,
    "networkMode": "bridge", "spec": {"linux": {"namespaces": [{"type": "network", "path": ""}]}},
}  # fmt: skip
STATE: Any = {"state": 3, "pid": 1, "networkStatus": {"podman": {}}}
POD: Any = {"id": "p1", "name": "shop", "labels": {"app": "shop"}}
CTR: Any = {"ID": "web", "Labels": {"app": "good", "nerdctl/name": "web"}}


def bolt_file(tree: Tree, transaction: int = 7) -> bytes:
    """Return a BoltDB file with these buckets: those of the root on pages of their own, others in their parents."""
    pages: list[bytes] = []
    entries = []
    for key, value in sorted(tree.items()):
        assert not isinstance(value, bytes)
        pages.append(_leaf(value, len(pages) + 4))
        entries.append((SUBBUCKET, key, struct.pack("<QQ", len(pages) + 3, 0)))
    root = _page(3, entries)
    size = b"".join([root, *pages])
    return _meta(0, transaction - 1) + _meta(1, transaction) + bytes(PAGE) + size


def _leaf(tree: Tree, number: int) -> bytes:
    entries = []
    for key, value in sorted(tree.items()):
        if isinstance(value, bytes):
            entries.append((0, key, value))
        else:
            inline = [(0, k, v) for k, v in sorted(value.items()) if isinstance(v, bytes)]
            entries.append((SUBBUCKET, key, struct.pack("<QQ", 0, 0) + _page(0, inline, padded=False)))
    return _page(number, entries)


def _page(number: int, entries: list[tuple[int, bytes, bytes]], padded: bool = True) -> bytes:
    heads, data = b"", b""
    for index, (kind, key, value) in enumerate(entries):
        offset = (len(entries) - index) * 16 + len(data)
        heads += struct.pack("<IIII", kind, offset, len(key), len(value))
        data += key + value
    body = struct.pack("<QHHI", number, LEAF, len(entries), 0) + heads + data
    assert len(body) <= PAGE
    return body.ljust(PAGE, b"\0") if padded else body


def _meta(number: int, transaction: int) -> bytes:
    body = struct.pack("<IIIIQQQQQ", MAGIC, VERSION, PAGE, 0, 3, 0, 2, 9, transaction)
    page = struct.pack("<QHHI", number, 4, 0, 0) + body + struct.pack("<Q", _fnv(body))
    return page.ljust(PAGE, b"\0")


GOOD = bolt_file({
    b"ctr": {b"c1": {
        b"config": json.dumps(CONFIG).encode(), b"state": json.dumps(STATE).encode(), b"pod-id": b"p1",
    }},
    b"pod": {b"p1": {b"config": json.dumps(POD).encode()}},
})  # fmt: skip


def once(rng: random.Random) -> None:
    """Try one damaged data base, and one damaged document of each kind."""
    check_bolt(some(GOOD, rng) if rng.random() < 0.5 else _flipped(rng))
    texts = [some(text(mutated(case, rng), rng), rng) for case in (CONFIG, STATE, POD)]
    check_podman(*texts)
    check_ctr(some(text(mutated(CTR, rng), rng), rng))


def _flipped(rng: random.Random) -> bytes:
    """Damage what the valid meta page leads to, where it hurts."""
    data = bytearray(GOOD)
    for _ in range(rng.randrange(1, 6)):
        start = rng.choice((PAGE * 3, PAGE * 4, PAGE * 5))
        data[start + rng.randrange(64)] = rng.randrange(256)
    return bytes(data)


def check_bolt(data: bytes) -> None:
    """Read a data base: containers, or EngineError."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "libpod").mkdir()
        (Path(directory) / "libpod" / "bolt_state.db").write_bytes(data)
        podman = Podman(Path(directory))
        try:
            listing = podman.listing()
            podman.find("c1")
        except EngineError:
            return
        check_listing(listing)


def check_podman(config: bytes, state: bytes, pod: bytes) -> None:
    """Read what podman says of a container: that, or ValueError."""
    try:
        container = documents.of_podman(config, state, pod)
    except ValueError:
        return
    check_container(container)


def check_ctr(answer: bytes) -> None:
    """Read an answer of ``ctr``: a container, or ValueError."""
    try:
        check_container(documents.of_containerd(answer))
    except ValueError:
        return


def check_container(container: Container) -> None:
    assert all(isinstance(part, str) for item in container.labels.items() for part in item)
    check_listing(Listing("podman", "netavark", (container,)))


def check_listing(listing: Listing, inventory: Inventory = INVENTORY) -> None:
    for found in documents.beside(listing, (), inventory):
        assert str(found.problem).isprintable()


def content(data: bytes) -> Tree:
    """Return what a BoltDB file holds."""
    bolt = Bolt(data)
    return {key: _content(bolt, key) for key, _ in bolt.items()}


def _content(bolt: Bolt, *path: bytes) -> Tree:
    return {key: _content(bolt, *path, key) if value is None else value for key, value in bolt.items(*path)}
