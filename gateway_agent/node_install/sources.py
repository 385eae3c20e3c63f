"""Read the configuration, the manifests and the key that the command line names."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import config
from ..config import DEFAULT_PATH, AgentConfig, ConfigError, FilesStoreConfig
from ..ctl.objects.validate import validate
from ..manifests import parsing
from ..manifests.model import Inventory
from .services import Failed

DEFAULT_TEXT = "store: {kind: files, path: /etc/egress-gateway/manifests}\n"
"""Configuration of a node without a given one."""
MIN_KEY_BYTES = 16


@dataclass(frozen=True)
class Sources:
    """The files of a node, except the programs."""

    config: AgentConfig
    inventory: Inventory
    files: Mapping[Path, tuple[bytes, int]]
    """Content and mode of the files to write."""


def read(config_file: Path | None, store: Path | None, key: Path | None) -> Sources:
    """Read and check everything. None: the node keeps its own. Raises :class:`Failed` and OSError."""
    files: dict[Path, tuple[bytes, int]] = {}
    text = _config_text(config_file, store)
    if config_file is not None or not DEFAULT_PATH.exists():
        files[DEFAULT_PATH] = text.encode(), 0o644
    try:
        parsed = config.parse(str(config_file or DEFAULT_PATH), text, os.uname().nodename.lower())
    except ConfigError as error:
        raise Failed(str(error), "egressctl validate checks it again") from error
    inventory = _inventory(parsed, store, files)
    _add_key(parsed, inventory, key, files)
    return Sources(parsed, inventory, files)


def _config_text(config_file: Path | None, store: Path | None) -> str:
    if config_file is not None:
        return config_file.read_text(encoding="utf-8")
    if DEFAULT_PATH.exists():
        return DEFAULT_PATH.read_text(encoding="utf-8")
    if store is None:
        raise Failed(
            f"there is no {DEFAULT_PATH}", "--config FILE gives one; --store DIR suffices for manifests"
        )
    return DEFAULT_TEXT


def _inventory(parsed: AgentConfig, store: Path | None, files: dict[Path, tuple[bytes, int]]) -> Inventory:
    """Return the objects of the store, with the given manifests, which are added to ``files``."""
    if not isinstance(parsed.store, FilesStoreConfig):
        if store is not None:
            raise Failed("--store: the configuration reads its objects from Kubernetes", "leave it out")
        return Inventory()
    directory = store or parsed.store.path
    outcome = validate([directory])
    if outcome.problems:
        raise Failed("\n".join(map(str, outcome.problems)), "egressctl validate checks them again")
    texts = []
    for path in sorted(directory.iterdir()):
        if path.name.endswith(parsing.SUFFIXES) and path.name[0] != ".":
            texts.append((str(path), path.read_text(encoding="utf-8")))
            if store is not None:
                files[parsed.store.path / path.name] = path.read_bytes(), 0o644
    found = parsing.parse(texts)
    if parsed.node_name not in {node.name for node in found.nodes}:
        raise Failed(
            f"no Node is named {parsed.node_name} in {directory}", "add it, or set nodeName in agent.yaml"
        )
    return found


def _add_key(
    parsed: AgentConfig, inventory: Inventory, key: Path | None, files: dict[Path, tuple[bytes, int]]
) -> None:
    if key is not None:
        content = key.read_bytes()
        if len(content.strip()) < MIN_KEY_BYTES:
            raise Failed(f"{key}: a key has {MIN_KEY_BYTES} bytes or more", "openssl rand -hex 32 makes one")
        files[parsed.key_file] = content, 0o600
    elif not parsed.key_file.exists():
        if len(inventory.nodes) != 1:
            raise Failed(f"there is no {parsed.key_file}", "--key FILE: all nodes need the same one")
        # The service cannot write to that directory.
        files[parsed.key_file] = f"{secrets.token_hex(32)}\n".encode(), 0o600
