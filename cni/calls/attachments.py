"""Attachment records: the facts of a CNI ADD, in one file for each pod interface.

The agent writes the records; while the agent does not run, the plugin does. A record names the host-side interfaces and
the pod. The tag is on the interface itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ..files import replace_file
from .cni_request import is_interface, subject

DIRECTORY = "attachments"
"""Directory of the records below the run directory, mode 0700."""
SUFFIX = ".json"
MAX_NAME_BYTES = 255
"""``NAME_MAX`` of Linux."""


@dataclass(frozen=True)
class Attachment:
    """One pod interface that the CNI plugin has seen."""

    container_id: str
    ifname: str
    """Name of the interface in the pod."""
    netns: str
    """Path of the pod's network namespace."""
    host_interface: str
    """The first host-side veth; empty: not known."""
    namespace: str
    name: str
    uid: str
    """Uid of the pod; empty: not known."""
    labels: Mapping[str, str] | None
    """Labels of the pod that the CNI call gave; None: it gave none."""
    addresses: tuple[str, ...]
    """Addresses of the pod, without prefix length."""
    group: int = 0
    """The interface group that was set; 0: not tagged."""
    network: str = ""
    """Name of the CNI network, since each GC is about one network. Empty: not known."""
    other_interfaces: tuple[str, ...] = ()
    """The other host-side veths of the pod, in a field of their own: records of earlier versions lack this field."""

    named: bool = False
    """True if the interfaces are known by the CNI result only: the pod's network namespace could not be opened."""

    @property
    def host_interfaces(self) -> tuple[str, ...]:
        """All host-side veths of the pod; empty: none is known."""
        return (self.host_interface, *self.other_interfaces) if self.host_interface else ()

    @property
    def subject(self) -> str:
        """The pod, for messages."""
        return subject(self.namespace, self.name, self.container_id)

    @property
    def key(self) -> tuple[str, str]:
        """Container id and interface name: the CNI specification identifies an attachment by them."""
        return self.container_id, self.ifname


def dumps(attachment: Attachment) -> str:
    """Return the JSON form; equal records give equal text."""
    return json.dumps(asdict(attachment), sort_keys=True, indent=1) + "\n"


def loads(text: str) -> Attachment:
    """Return the record in ``text``. Raises :class:`ValueError`. Keys of later versions are ignored."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("not an object")
    known = {f.name: data[f.name] for f in fields(Attachment) if f.name in data}
    addresses = known.get("addresses")
    if not isinstance(addresses, list):
        raise ValueError("addresses: not a list")
    known["addresses"] = tuple(addresses)
    others = known.get("other_interfaces", [])
    if not isinstance(others, list):
        raise ValueError("other_interfaces: not a list")
    known["other_interfaces"] = tuple(others)
    try:
        attachment = Attachment(**known)
    except TypeError as error:
        raise ValueError(str(error)) from None
    _check(attachment)
    return attachment


def write(run_dir: Path, attachment: Attachment) -> None:
    """Write the record, whole or not at all. Raises :class:`OSError`."""
    directory = run_dir / DIRECTORY
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = dumps(attachment).encode("utf-8", "surrogateescape")
    # A reboot ends the records together with their interfaces, so the records need not be synced to the disk.
    replace_file(directory / _file_name(*attachment.key), content, 0o600, sync=False, several_writers=True)


def load(run_dir: Path, container_id: str, ifname: str) -> Attachment | None:
    """Return the record of one attachment; None if there is none or it is not readable."""
    with suppress(OSError, ValueError):
        return loads((run_dir / DIRECTORY / _file_name(container_id, ifname)).read_text(encoding="utf-8"))
    return None


def load_all(run_dir: Path) -> tuple[tuple[Attachment, ...], tuple[str, ...]]:
    """Return all records in the order of file names, and the fault of each file that is no record."""
    found: list[Attachment] = []
    problems: list[str] = []
    with suppress(FileNotFoundError):
        for name in sorted(os.listdir(run_dir / DIRECTORY)):
            if name.startswith(".") or not name.endswith(SUFFIX):
                continue
            try:
                record = loads((run_dir / DIRECTORY / name).read_text(encoding="utf-8"))
                if _file_name(*record.key) != name:
                    raise ValueError("it is the record of another attachment")
                found.append(record)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                problems.append(f"{name}: {error} (remove the file; the pod's next ADD writes it again)")
    return tuple(found), tuple(problems)


def stamp(run_dir: Path) -> int:
    """Return a number that changes whenever a record is written or removed; 0 if there is no directory yet."""
    try:
        return (run_dir / DIRECTORY).stat().st_mtime_ns
    except OSError:
        return 0


def remove(run_dir: Path, container_id: str, ifname: str) -> bool:
    """Remove a record. Return False if there was none. Raises :class:`OSError`."""
    try:
        os.unlink(run_dir / DIRECTORY / _file_name(container_id, ifname))
    except FileNotFoundError:
        return False
    return True


def _file_name(container_id: str, ifname: str) -> str:
    """Return the name of a record's file. It never leads out of the directory.

    No container id has an ``@``, so the first ``@`` ends the id. An id that is too long for a file name is hashed.
    """
    name = f"{container_id}@{ifname}{SUFFIX}"
    encoded = os.fsencode(name)
    fits = len(encoded) <= MAX_NAME_BYTES and "/" not in name and "\0" not in name
    return name if fits else hashlib.sha256(encoded).hexdigest() + SUFFIX


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _check(attachment: Attachment) -> None:
    for key, value in asdict(attachment).items():
        if not _fits(key, value):
            raise ValueError(f"{key}: {value!r} is not possible")


def _fits(key: str, value: Any) -> bool:
    if key == "named":
        return isinstance(value, bool)
    if key == "group":
        return isinstance(value, int) and 0 <= value <= 0xFFFFFFFF
    if key == "addresses":
        return all(isinstance(item, str) and _is_address(item) for item in value)
    if key == "host_interface":
        return value == "" or (isinstance(value, str) and is_interface(value))
    if key == "other_interfaces":
        return all(isinstance(item, str) and is_interface(item) for item in value)
    if key == "labels":
        return value is None or (
            isinstance(value, dict) and all(isinstance(part, str) for item in value.items() for part in item)
        )
    return isinstance(value, str)
