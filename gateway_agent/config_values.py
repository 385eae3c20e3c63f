"""Parse single values of ``agent.yaml``. A wrong value is reported, and its default is returned in its place."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cni.kernel.ids import MarkLayout

from .gateway_rules import pod_guard
from .lease.messages.keys import MAX_KEYS
from .manifests import prefixes, selectors
from .manifests.fields import Fields, kind_of

MAX_RUN_DIR_BYTES = 90
"""Largest length of the run directory's path: that of a unix socket in it has at most 107 bytes."""

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m)")
_SIZE = re.compile(r"([0-9]{1,6})(kB|MB|GB)")
_BYTES = {"kB": 10**3, "MB": 10**6, "GB": 10**9}
_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})")
_NANOSECONDS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9}


def node_name(top: Fields, host_name: str) -> str:
    """Return the node's name; ``host_name`` if the configuration gives none."""
    name = top.text("nodeName", host_name)
    if not selectors.is_name(name):
        hint = f"lower-case letters, digits, '-' and '.', at most {selectors.MAX_NAME_CHARS} characters"
        top.add("nodeName", f"{name!r} is no DNS name", hint)
    return name


def run_dir(top: Fields, default: Path) -> Path:
    """Return the run directory; its path must be short enough for the sockets in it."""
    path = absolute_path(top, "runDir", default)
    if len(os.fsencode(path)) > MAX_RUN_DIR_BYTES:
        top.add("runDir", f"has more than {MAX_RUN_DIR_BYTES} bytes", "the path of a unix socket is short")
    return path


def absolute_path(fields: Fields, name: str, default: Path) -> Path:
    """Return the path in the field ``name``."""
    path = Path(fields.text(name, str(default)))
    if not path.is_absolute() or "\0" in str(path):
        fields.add(name, f"{str(path)!r} is no absolute path", f"as {default}")
    return path


def engine_path(engines: Fields, name: str, default: Path | None) -> Path | None:
    """Return the path of an engine's store or socket; None if the configuration has an empty text."""
    assert default is not None
    return absolute_path(engines, name, default) if engines.raw(name) != "" else None


def accepted_key_files(cluster: Fields, key_file: Path) -> tuple[Path, ...]:
    """Return the files of the accepted keys. ``key_file``: an example for the hint."""
    found = list(cluster.texts("acceptKeyFiles"))
    for path, name in found:
        if not Path(name).is_absolute() or "\0" in name:
            cluster.report.add(path, f"{name!r} is no absolute path", f"as {key_file}")
    if len(found) > MAX_KEYS:
        cluster.add("acceptKeyFiles", f"has more than {MAX_KEYS} files", "one is enough to replace a key")
    return tuple(Path(name) for _, name in found)


def duration_ns(fields: Fields, name: str, default: int) -> int:
    """Return the duration in the field ``name``, nanoseconds; ``default`` if it is absent or invalid."""
    given = fields.raw(name)
    if given is None:
        return default
    found = _DURATION.fullmatch(given) if isinstance(given, str) else None
    value = round(float(found[1]) * _NANOSECONDS[found[2]]) if found else 0
    if not 10**6 <= value <= 3600 * 10**9:
        fields.add(name, f"{given!r} is no duration from 1ms to 60m", "as 50ms or 0.25s")
        return default
    return value


def size_bytes(fields: Fields, name: str, default: int) -> int:
    """Return the size in the field ``name``, bytes; ``default`` if it is absent or invalid."""
    given = fields.raw(name)
    if given is None:
        return default
    found = _SIZE.fullmatch(given) if isinstance(given, str) else None
    value = int(found[1]) * _BYTES[found[2]] if found else 0
    if not 10**5 <= value <= 10**12:
        fields.add(name, f"{given!r} is no size from 100kB to 1000GB", "as 100MB")
        return default
    return value


def mtu(tunnel: Fields) -> int | None:
    """Return the MTU of tunnel devices, bytes; None for ``auto``."""
    given = tunnel.raw("mtu")
    if given is None or given == "auto":
        return None
    # RFC 791: every host accepts datagrams of 576 bytes. 65485: an underlay MTU of 65535 minus the VXLAN overhead.
    if isinstance(given, bool) or not isinstance(given, int) or not 576 <= given <= 65485:
        tunnel.add("mtu", f"{given!r} is neither auto nor a number of bytes from 576 to 65485")
        return None
    return given


def mark_mask(mark: Fields, default: int) -> int:
    """Return the mask of packet marks."""
    found = mark.raw("mask")
    mark.end()
    if found is None:
        return default
    try:
        mask = int(found, 0) if isinstance(found, str) else found
        if isinstance(mask, bool) or not isinstance(mask, int):
            raise ValueError(f"must be a number, not {kind_of(found)}")
        MarkLayout(mask)
    except ValueError as error:
        mark.add("mask", str(error), 'as "0x0ff00000"')
        return default
    return mask


def switch(fields: Fields, name: str, default: bool) -> bool:
    """Return True for ``On``. YAML reads ``On`` and ``Off`` without quotes as booleans."""
    given = fields.raw(name)
    if given is None:
        return default
    if given not in (True, False, "On", "Off"):
        fields.add(name, f"{given!r} is not known", "On or Off")
    return given in (True, "On")


def guard_except(top: Fields, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the patterns of interfaces that are not guarded."""
    if top.raw("guardExcept") is None:
        return default
    names = []
    for path, name in top.texts("guardExcept"):
        if pod_guard.NAME.fullmatch(name):
            names.append(name)
        else:
            top.report.add(
                path,
                f"{name!r} is no name of an interface",
                "as docker0, or br-* for all names with this prefix",
            )
    return tuple(names)


def host_names(metrics: Fields) -> tuple[str, ...]:
    """Return the host names that HTTP requests may use, in lower case."""
    names = []
    for path, name in metrics.texts("names"):
        if selectors.is_name(name.lower()):
            names.append(name.lower())
        else:
            metrics.report.add(path, f"{name!r} is no DNS name", "as node1.example.com, without a port")
    return tuple(names)


def listen_address(metrics: Fields, default: tuple[str, int]) -> tuple[str, int]:
    """Return the address and TCP port to listen on."""
    text = metrics.text("listen", f"{default[0]}:{default[1]}")
    found = _LISTEN.fullmatch(text)
    try:
        address = prefixes.address(found[1] or found[2]) if found else ""
    except ValueError:
        address = ""
    if found is None or not address or (":" in address) != bool(found[1]) or not 1 <= int(found[3]) <= 65535:
        metrics.add("listen", f"{text!r} is no address and port", "as 127.0.0.1:9479 or [::1]:9479")
        return default
    return address, int(found[3])
