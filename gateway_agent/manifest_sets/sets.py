"""A set of manifests: all files of a store, with a version. Equal sets have equal bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from ..manifests.parsing import SUFFIXES

MAX_SET_BYTES = 2 << 20
"""Bytes of a packed set: 1,000 ``Node`` documents have 0.3 MiB."""
MAX_FILES = 1000
MAX_NAME_BYTES = 240
"""``NAME_MAX`` of Linux, minus the prefix of a draft's name."""
MAX_NODE_BYTES = 253
"""Length of the name of a node (RFC 1123)."""
MAX_TARGETS = 5000
ANCESTORS = 16
"""Largest number of earlier contents of the store that a set names."""
DIGEST_BYTES = 32
MAX_COUNTER = 1 << 62


class Version(NamedTuple):
    """The version of a set. Of two sets the higher one is newer; the digest decides between two of one number."""

    number: int
    digest: bytes

    @property
    def text(self) -> str:
        """Return the version for people: the number, and 48 bits of the digest."""
        return f"{self.number} ({self.digest.hex()[:12]})" if self.number else "none"


NONE = Version(0, b"")
"""Version of a node without a set."""


class ManifestSet(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """All files of a store. :func:`made` creates a set; :func:`unpacked` checks one from another node."""

    number: int
    author: str
    """Name of the node on which the push was started."""
    files: tuple[tuple[str, str], ...]
    """Name and text of each file, sorted by name."""
    targets: tuple[str, ...] = ()
    """Names of the nodes that the set is for, sorted; empty: all."""
    ancestors: tuple[bytes, ...] = ()
    """Digests of earlier contents of the store, the newest first: a directory with one of them is old, not edited."""

    @property
    def version(self) -> Version:
        """Return the version of the set: its number, and the digest of all of it."""
        return Version(self.number, _digest(packed(self)))

    @property
    def content(self) -> bytes:
        """Return the digest of the files alone."""
        return content_of(self.files)

    def is_for(self, node: str) -> bool:
        """Return True if the set is for this node."""
        return not self.targets or node in self.targets


class Malformed(Exception):
    """The bytes are no set that may be applied."""


def made(
    number: int,
    author: str,
    files: Mapping[str, str],
    targets: Iterable[str] = (),
    ancestors: Iterable[bytes] = (),
) -> ManifestSet:
    """Return a set. Raises :class:`Malformed` with the reason if the set is too large."""
    earlier = tuple(dict.fromkeys(ancestors))[:ANCESTORS]
    found = ManifestSet(number, author, tuple(sorted(files.items())), tuple(sorted(set(targets))), earlier)
    _check(found)
    if len(packed(found)) > MAX_SET_BYTES:
        raise Malformed(f"the manifests have more than {MAX_SET_BYTES >> 20} MiB")
    return found


def packed(manifests: ManifestSet) -> bytes:
    """Return the bytes of a set."""
    return _ENCODER.encode(manifests)


def unpacked(raw: bytes) -> ManifestSet:
    """Return the set in ``raw``. Raises :class:`Malformed`."""
    if len(raw) > MAX_SET_BYTES:
        raise Malformed(f"more than {MAX_SET_BYTES} bytes")
    try:
        found = _DECODER.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    _check(found)
    return found


def content_of(files: Iterable[tuple[str, str]]) -> bytes:
    """Return the digest of files: name and text of each, sorted by name."""
    return _digest(_ENCODER.encode(tuple(files)))


def is_manifest(name: str) -> bool:
    """Return True if the store reads a file of this name."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _check(found: ManifestSet) -> None:
    """Raise :class:`Malformed` if names lead out of the directory, or if the set is not in canonical form."""
    if not 0 < found.number <= MAX_COUNTER:
        raise Malformed("its number is out of bounds")
    names = [name for name, _ in found.files]
    if not 0 < len(names) <= MAX_FILES:
        raise Malformed(f"{len(names)} files: it must have 1 to {MAX_FILES}")
    if names != sorted(set(names)) or list(found.targets) != sorted(set(found.targets)):
        raise Malformed("its names are not sorted, or repeated")
    for name in names:
        if not is_manifest(name) or "/" in name or not name.isprintable() or _size(name) > MAX_NAME_BYTES:
            raise Malformed(f"{name!r} is no name of a manifest file")
    if any(_size(text) < 0 for _, text in found.files):
        raise Malformed("a file is not UTF-8")
    nodes = (found.author, *found.targets)
    if len(nodes) > MAX_TARGETS or any(not 0 < _size(node) <= MAX_NODE_BYTES for node in nodes):
        raise Malformed("a name of a node is out of bounds")
    if len(found.ancestors) > ANCESTORS or any(len(each) != DIGEST_BYTES for each in found.ancestors):
        raise Malformed("its ancestors are out of bounds")


def _size(text: str) -> int:
    """Return the size of a text in UTF-8, bytes; -1 if it cannot be encoded."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, person=b"egw-v1-manifest", digest_size=DIGEST_BYTES).digest()


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(ManifestSet)
