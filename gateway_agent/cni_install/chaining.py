"""Put the plugin's entry where the runtime loads it, and remove it from the other places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni.files import replace_file

from . import conflist_text, drop_in, entry_place
from .conf_dir import configurations, read
from .conflist_text import NotChainable
from .entry_place import DROP_IN, IN_FILE, TRIED, Places
from .runtime import Runtime


@dataclass(frozen=True)
class Chained:
    """The outcome of :func:`chain`."""

    file: Path
    """The file that has our entry."""
    lines: tuple[str, ...] = ()
    """Descriptions of the changes."""
    tried: bool = False
    """True if the runtime must be asked again whether it loads the drop-in."""


def chain(path: Path, entry: Mapping[str, Any], runtime: Runtime) -> Chained:
    """Put the entry into the configuration ``path``, or beside it. Raises OSError and :class:`NotChainable`.

    The entry is removed from one place only after it is in the other one.
    """
    conf_dir, text = path.parent, read(path)
    network = entry_place.network(text)
    ours = drop_in.path(conf_dir, network) if network else None
    found = Places(conflist_text.unchained(text) != text, ours is not None and ours.exists())
    ruled_out = not network or runtime.loads_no_drop_ins()
    loaded = None if ruled_out else runtime.loaded(network, (text, found))
    wanted = entry_place.decide(found, loaded, ruled_out, runtime.loads_drop_ins(path.stat().st_mtime))
    if wanted == TRIED and not runtime.tries():
        wanted = IN_FILE
    elif wanted != TRIED:
        runtime.tried(wanted == DROP_IN)
    return _put(path, entry, network, wanted)


def _put(path: Path, entry: Mapping[str, Any], network: str, wanted: Places) -> Chained:
    conf_dir, lines = path.parent, []
    if wanted.in_file and rewrite(path, lambda text: conflist_text.chained(text, entry)):
        lines.append(f"{path}: chained")
    ours = drop_in.path(conf_dir, network)
    if wanted.in_drop_in and drop_in.put(conf_dir, network, entry):
        lines.append(f"{ours}: chained, if the runtime loads it")
    if wanted == DROP_IN and rewrite(path, conflist_text.unchained):
        lines.append(f"{path}: not chained any more, as the runtime has loaded {ours}")
    removed = drop_in.remove(conf_dir, but=network if wanted.in_drop_in else "")
    lines += [f"{stale}: removed" for stale in removed]
    return Chained(ours if wanted == DROP_IN else path, tuple(lines), wanted == TRIED)


def unchain(conf_dir: Path) -> list[str]:
    """Remove the entry from each place. Return descriptions of the changes. Raises OSError."""
    lines = []
    files, unreadable = configurations(conf_dir)
    for name, text in files.items():
        path = conf_dir / name
        try:
            if f'"{conflist_text.TYPE}"' in text and rewrite(path, conflist_text.unchained):
                lines.append(f"{path}: not chained any more")
        except NotChainable as error:
            lines.append(f"{path}: left as it is: {error}")
    lines += [f"{path}: removed" for path in drop_in.remove(conf_dir)]
    return [*lines, *(f"{conf_dir / name}: left as it is: {reason}" for name, reason in unreadable.items())]


def rewrite(path: Path, change: Callable[[str], str]) -> bool:
    """Change the text of a file. Return True if it was changed. Concurrent writes of other programs are kept."""
    # A symbolic link stays one: its target is changed.
    path = path.resolve(strict=True)
    while True:
        before = read(path)
        after = change(before)
        if after == before:
            return False
        if replace_file(path, after.encode(), path.stat().st_mode & 0o7777, before):
            return True
