"""Decide where the plugin's entry belongs: into the network's own file, or into a drop-in file beside it.

libcni 1.3 (containerd 2.1) also loads ``<conf-dir>/<network>/*.conf``, and appends each to the plugins of the network.
A main network plugin that rewrites its own file does not touch such a drop-in, so no pod starts without our entry
meanwhile. An older runtime ignores the directory. Only a trial shows whether a runtime loads drop-ins: with both
entries in place, such a runtime names our plugin twice. Meanwhile a pod's ADD runs the plugin twice, which is harmless.
The entry is removed from the file only after the runtime has named both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import conflist_text

_NETWORK_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
"""CNI specification 1.1, section 1: it names a directory, too."""


@dataclass(frozen=True)
class Places:
    """Places of the entry."""

    in_file: bool
    in_drop_in: bool


IN_FILE, DROP_IN, TRIED = Places(True, False), Places(False, True), Places(True, True)


def decide(found: Places, loaded: tuple[str, ...] | None, ruled_out: bool, proven: bool) -> Places:
    """Return the places that the entry should have.

    ``loaded``: types of the plugins of this network that the runtime has loaded, None if it does not answer.
    ``ruled_out``: drop-ins are not possible with this configuration, or were tried with this runtime without success.
    ``proven``: this runtime has loaded a drop-in, or the network's file is older than the loaded configuration. Without
    that, the loaded entry may be the one that another program has just removed from the file.
    """
    if ruled_out:
        return IN_FILE
    alone = found == DROP_IN and proven
    if loaded is None:
        return DROP_IN if alone else IN_FILE
    times = loaded.count(conflist_text.TYPE)
    if (found == TRIED and times >= 2) or (alone and times >= 1):
        return DROP_IN
    return TRIED


def network(text: str) -> str:
    """Return the name of the network whose drop-ins a runtime would load; empty if there can be none.

    Multus, and a default network that is part of its configuration, are run by multus itself.
    """
    whole = conflist_text.parsed(text)
    name = whole.get("name")
    plugins = whole.get("plugins")
    if not isinstance(name, str) or not _NETWORK_NAME.fullmatch(name) or not isinstance(plugins, list):
        return ""
    if _true(whole, "loadOnlyInlinedPlugins") or conflist_text.is_multus(whole):
        return ""
    return name


def _true(whole: Mapping[str, Any], key: str) -> bool:
    """Return True if a key is set, read as libcni reads it: a boolean, or its text."""
    return str(whole.get(key, "")).lower() == "true"
