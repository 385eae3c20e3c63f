"""Add our entry to the text of a CNI network configuration, or remove it. Nothing else in the text is changed.

The entry belongs into the file that container runtimes use: the first one by name that libcni can load. The
configuration of multus takes no further plugin. Multus runs the whole configuration of its default network, so the
entry goes there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ..manifests.fields import is_unicode
from ..manifests.model import Problem

TYPE = "egress-gateway"
SUFFIXES = (".conf", ".conflist", ".json")
"""Suffixes of the files that container runtimes read."""
LIST = ".conflist"
VERSIONS = ((0, 3, 1), (0, 4, 0), (1, 0, 0), (1, 1, 0))
"""CNI versions that our plugin supports."""
MULTUS = ("multus", "multus-shim")
"""Types of the multus plugin, thin and thick."""
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")
_BOOLEANS = ("disableCheck", "disableGC", "loadOnlyInlinedPlugins")
"""Keys of a list that libcni reads as a boolean, or as its text."""
_HINT = "see the CNI specification, section 1"
SINGLE_PLUGIN_HINT = "make a .conflist of it: a list of plugins"


class NotChainable(Exception):
    """Our plugin cannot be added to the configuration. ``hint``: the remedy."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} ({hint})")
        self.message, self.hint = message, hint


@dataclass(frozen=True)
class InUse:
    """The file of a configuration directory that gets our entry."""

    name: str = ""
    """Name of the file; empty if no file is usable yet."""
    skipped: tuple[Problem, ...] = ()
    """Problems of the files before it, which cannot be loaded."""


def in_use(files: Mapping[str, str], unreadable: Mapping[str, str], network: str = "") -> InUse:
    """Return the file whose configuration the runtime uses for pods. Raises :class:`NotChainable`.

    ``files``: text of each file by name. ``unreadable``: reason for each file that cannot be read. CRI-O and Podman
    skip files that they cannot load. containerd starts no pod as long as such a file exists, so the next file is right
    in that case, too. ``network``: name of the runtime's default network (``cni_default_network`` of CRI-O), which
    starts no pod before there is such a network; empty: that of the first file.
    """
    loaded: dict[str, dict[str, Any]] = {}
    skipped: list[Problem] = []
    for name in sorted((*files, *unreadable)):
        if not name.endswith(SUFFIXES):
            continue
        try:
            if name in unreadable:
                raise NotChainable(unreadable[name], "no runtime can load it: remove or repair it")
            loaded[name] = _loaded(name, files[name])
        except NotChainable as error:
            if not loaded:
                skipped.append(Problem(name, "", error.message, error.hint))
    chosen = (name for name, whole in loaded.items() if network in ("", whole.get("name")))
    name = next(chosen, "")
    if not name:
        return InUse(skipped=tuple(skipped))
    whole = loaded[name]
    for plugin in _plugins(whole):
        if plugin.get("type") in MULTUS:
            name = _of_multus(name, plugin, loaded)
    if not name.endswith(LIST) and not _inline(loaded[name]):
        raise NotChainable(f"{name} is in use, which has room for one plugin", SINGLE_PLUGIN_HINT)
    return InUse(name, tuple(skipped))


def _of_multus(name: str, multus: Mapping[str, Any], loaded: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the file with the default network of multus. Raises :class:`NotChainable`.

    See ``getNetDelegate`` of multus: ``clusterNetwork`` is a file or a directory, in the view of its daemon, or the
    name of a network. Without it, the first of ``delegates`` is used, which is part of the file ``name``.
    """
    network = multus.get("clusterNetwork")
    if not network or not isinstance(network, str):
        return name
    others = {other: whole for other, whole in loaded.items() if not is_multus(whole)}
    last = PurePosixPath(network).name
    if "/" not in network:
        found = next((other for other, whole in others.items() if whole.get("name") == network), "")
    elif last.endswith(SUFFIXES):
        found = last if last in others else ""
    else:
        found = next(iter(others), "")
    if not found:
        hint = f'put {{"type": "{TYPE}"}} at the end of its plugins, or name a file of the directory there'
        raise NotChainable(f"{name}: the default network of multus, {network}, is no file here", hint)
    return found


def chained(text: str, entry: Mapping[str, Any]) -> str:
    """Return the configuration with ``entry`` as its last plugin. Raises :class:`NotChainable`.

    If the entry is there already, the text is returned unchanged.
    """
    whole = parsed(text)
    network = _inline(whole) or whole
    _check_list(network)
    _check_version(network)
    plugins = network["plugins"]
    others = [plugin for plugin in plugins if not _is_ours(plugin)]
    if not others:
        raise NotChainable("it lists no other plugin", "one that makes the pods' interfaces must come first")
    if plugins == [*others, entry]:
        return text
    network["plugins"] = [*others, dict(entry)]
    return _written(whole)


def unchained(text: str) -> str:
    """Return the configuration without our plugin; unchanged if it has none. Raises :class:`NotChainable`."""
    whole = parsed(text)
    ours = [network for network in _networks(whole) if any(map(_is_ours, network["plugins"]))]
    for network in ours:
        network["plugins"] = [plugin for plugin in network["plugins"] if not _is_ours(plugin)]
    return _written(whole) if ours else text


@dataclass(frozen=True)
class Report:
    """Content of the installer's report for the agent."""

    problems: tuple[Problem, ...] = ()
    """Problems that keep the plugin from being used."""
    chained: str = ""
    """Path of the file that has our entry; empty if there is none."""


def report(content: Report) -> str:
    """Return the text of a report."""
    problems = [
        {"source": p.source, "path": p.path, "message": p.message, "hint": p.hint} for p in content.problems
    ]
    return json.dumps({"problems": problems, "chained": content.chained}) + "\n"


def read_report(text: str) -> Report:
    """Return the content of a :func:`report`. Raises ValueError if the text is no report."""
    try:
        whole = json.loads(text)
        problems = tuple(
            Problem(str(given["source"]), str(given["path"]), str(given["message"]), str(given["hint"]))
            for given in whole["problems"]
        )
        return Report(problems, str(whole["chained"]))
    except (AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"no report of an installer: {error}") from None


def _loaded(name: str, text: str) -> dict[str, Any]:
    """Return the configuration as libcni loads it. Raises :class:`NotChainable` if libcni cannot."""
    whole = parsed(text)
    if name.endswith(LIST):
        _check_list(whole)
        if not whole["plugins"] or not whole.get("name"):
            raise NotChainable("it has no plugins or no name", _HINT)
    elif "plugins" in whole and not whole.get("type"):
        raise NotChainable(f"it is a list of plugins, and its name does not end in {LIST}", "rename it")
    if not all(kind and isinstance(kind, str) for kind in map(_type, _plugins(whole))):
        raise NotChainable("a plugin has no type", _HINT)
    _check_types(whole)
    return whole


def _type(plugin: Mapping[str, Any]) -> object:
    """Return the type of a plugin, whose key libcni reads in small or capital letters."""
    return next((value for key, value in plugin.items() if key.lower() == "type"), None)


def _check_types(whole: Mapping[str, Any]) -> None:
    """Raise :class:`NotChainable` if a key has a type with which libcni refuses the whole file."""
    for key in ("name", "cniVersion"):
        if not isinstance(whole.get(key, ""), str):
            raise NotChainable(f"its {key} is no text", _HINT)
    for key in _BOOLEANS if "plugins" in whole else ():
        if str(whole.get(key, False)).lower() not in ("true", "false"):
            raise NotChainable(f"its {key} is neither true nor false", _HINT)


def parsed(text: str) -> dict[str, Any]:
    """Return the JSON object of a configuration. Raises :class:`NotChainable`."""
    try:
        whole = json.loads(text, parse_constant=_refuse_number, parse_float=_finite, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        reason = "it is empty" if not text.strip() else f"it is not JSON: {error}"
        raise NotChainable(reason, "no runtime can read it either") from None
    if not isinstance(whole, dict):
        raise NotChainable("it has no list of plugins", _HINT)
    return whole


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse_number(text)
    return number


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def _refuse_number(text: str) -> None:
    """Raise ValueError: Python reads such a number, and Go does not."""
    raise ValueError(f"{text[:20]} is no number")


def _check_list(whole: Mapping[str, Any]) -> None:
    plugins = whole.get("plugins")
    if not isinstance(plugins, list) or not all(isinstance(plugin, dict) for plugin in plugins):
        raise NotChainable("it has no list of plugins", _HINT)


def _check_version(whole: Mapping[str, Any]) -> None:
    """Raise :class:`NotChainable` unless our plugin supports the version that runtimes choose.

    A runtime chooses the newest of ``cniVersion`` and ``cniVersions`` that it supports (CNI 1.1).
    """
    several = whole.get("cniVersions", [])
    if not isinstance(several, list) or not all(
        isinstance(v, str) and _VERSION.fullmatch(v) for v in several
    ):
        raise NotChainable(
            "its cniVersions is no list of versions", "some runtimes load it, and others do not"
        )
    given = [whole.get("cniVersion"), *several]
    named = [str(version) for version in given if version]
    numbers = [tuple(map(int, version.split("."))) for version in named if _VERSION.fullmatch(version)]
    spoken = [version for version in numbers if version <= VERSIONS[-1]]
    shown = ", ".join(version[:20] for version in named[:8]) or "(none)"
    if numbers and not spoken:
        raise NotChainable(f"cniVersion {shown} is too new", "1.1.0 or earlier can be chained")
    if not spoken or max(spoken) not in VERSIONS:
        raise NotChainable(f"cniVersion {shown} is too old", "0.3.1 or later can be chained")


def _plugins(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the plugins of a list, or the only one of a configuration that is no list."""
    plugins = whole.get("plugins")
    return [p for p in plugins if isinstance(p, dict)] if isinstance(plugins, list) else [dict(whole)]


def is_multus(whole: Mapping[str, Any]) -> bool:
    """Return True if a plugin of the configuration is multus."""
    return any(plugin.get("type") in MULTUS for plugin in _plugins(whole))


def _inline(whole: dict[str, Any]) -> dict[str, Any] | None:
    """Return the default network that is part of a configuration of multus; None if there is none."""
    for plugin in _plugins(whole):
        delegates = plugin.get("delegates")
        if plugin.get("type") in MULTUS and not plugin.get("clusterNetwork") and isinstance(delegates, list):
            first = delegates[0] if delegates else None
            return first if isinstance(first, dict) and isinstance(first.get("plugins"), list) else None
    return None


def _networks(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each list of plugins in a configuration: its own, and those in the delegates of multus."""
    if isinstance(whole.get("plugins"), list):
        yield whole
    for plugin in _plugins(whole):
        delegates = plugin.get("delegates")
        for network in delegates if isinstance(delegates, list) else ():
            if isinstance(network, dict) and isinstance(network.get("plugins"), list):
                yield network


def _is_ours(plugin: object) -> bool:
    return isinstance(plugin, dict) and plugin.get("type") == TYPE


def _written(whole: Mapping[str, Any]) -> str:
    """Return the text of a configuration. Raises :class:`NotChainable`."""
    try:
        text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    except RecursionError:
        raise NotChainable("it is nested too deeply", _HINT) from None
    # JSON may have half a pair of surrogates, UTF-8 may not.
    return text if is_unicode(text) else json.dumps(whole, indent=2) + "\n"
