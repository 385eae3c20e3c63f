"""Our entry in the node's CNI network configuration: text in, text out. Nothing else of it is changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

TYPE = "egress-gateway"
ENDINGS = (".conf", ".conflist", ".json")
"""Of the files that container runtimes look at."""
LIST = ".conflist"
OLDEST = (0, 3, 1)


class NotChainable(Exception):
    """The configuration cannot take our plugin. The message says why, ``hint`` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} ({hint})")
        self.hint = hint


def in_use(names: Iterable[str]) -> str:
    """The file that runtimes take: the first by name. Empty where there is none. Raises :class:`NotChainable`."""
    name = min((name for name in names if name.endswith(ENDINGS)), default="")
    if name and not name.endswith(LIST):
        raise NotChainable(
            f"{name} is in use, which has room for one plugin", f"make a {LIST} of it: a list of plugins"
        )
    return name


def chained(text: str, entry: Mapping[str, Any]) -> str:
    """The configuration with ``entry`` as its last plugin; as it is where it has it. Raises :class:`NotChainable`."""
    whole = _parsed(text)
    _check_version(whole)
    if [plugin for plugin in whole["plugins"] if _is_ours(plugin)] == [entry]:
        return text
    others = [plugin for plugin in whole["plugins"] if not _is_ours(plugin)]
    if not others:
        raise NotChainable("it lists no other plugin", "one that makes the pods' interfaces must come first")
    return _written({**whole, "plugins": [*others, dict(entry)]})


def unchained(text: str) -> str:
    """The configuration without our plugin; as it is where it has none. Raises :class:`NotChainable`."""
    whole = _parsed(text)
    others = [plugin for plugin in whole["plugins"] if not _is_ours(plugin)]
    return text if others == whole["plugins"] else _written({**whole, "plugins": others})


def _parsed(text: str) -> dict[str, Any]:
    try:
        whole = json.loads(text)
    except ValueError as error:
        raise NotChainable(f"it is not JSON: {error}", "no runtime can read it either") from None
    plugins = whole.get("plugins") if isinstance(whole, dict) else None
    if not isinstance(plugins, list) or not all(isinstance(plugin, dict) for plugin in plugins):
        raise NotChainable("it has no list of plugins", "see the CNI specification, section 1")
    return dict(whole)


def _check_version(whole: Mapping[str, Any]) -> None:
    version = str(whole.get("cniVersion") or "")
    numbers = version.split(".")
    if not all(number.isdecimal() for number in numbers) or tuple(map(int, numbers)) < OLDEST:
        raise NotChainable(f"cniVersion {version or '(none)'} is too old", "0.3.1 or later can be chained")


def _is_ours(plugin: Mapping[str, Any]) -> bool:
    return plugin.get("type") == TYPE


def _written(whole: Mapping[str, Any]) -> str:
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
