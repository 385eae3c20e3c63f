"""Parse a BoltDB file (go.etcd.io/bbolt, ``page.go``, ``bucket.go``, ``db.go``), the store of older podman versions.

A BoltDB file is a key-value store of pages: two meta pages, of which the valid one with the higher transaction is
current, and B+ trees. The input is not trusted: every violation of the format raises ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

MAGIC = 0xED0CDAED
VERSION = 2
BRANCH, LEAF = 1, 2
"""Kinds of pages."""
SUBBUCKET = 1
"""Flag of a leaf's entry that is a bucket."""
MAX_DEPTH = 32
"""Largest number of levels of a tree: with two entries on each page, no file is large enough for more."""
MAX_READ_FACTOR = 16
"""Largest number of bytes that are read, as a multiple of the file's size: entries of a damaged file may overlap."""
_PAGE = struct.Struct("<QHHI")
"""Header of a page: number, kind, entries, number of overflow pages."""
_META = struct.Struct("<IIIIQQQQQQ")
"""Meta page: magic, version, page size, flags, root page, sequence, free list, pages, transaction, checksum."""
_BRANCH = struct.Struct("<IIQ")
"""Branch entry: offset from its own start, length of the key, page."""
_LEAF = struct.Struct("<IIII")
"""Leaf entry: flags, offset from its own start, length of the key, length of the value."""
_BUCKET = struct.Struct("<QQ")
"""Bucket: root page (0: an inline page follows), sequence."""


class Bolt:
    """The content of a file (``data``) as of its last transaction. Raises ValueError if it is no BoltDB file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_READ_FACTOR * len(data)
        metas = [meta for meta in _metas(data) if meta is not None]
        if not metas:
            raise ValueError("no valid BoltDB file")
        _, self._size, self._root = max(metas)

    def items(self, *path: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield (key, value) of each entry of the bucket at ``path``; the value is None if the entry is a bucket.

        Yields nothing if there is no such bucket. Raises ValueError.
        """
        for key, value, kind in self._bucket(path):
            yield key, None if kind & SUBBUCKET else value

    def buckets(self, *path: bytes) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        """Yield (key, values by key) of each bucket inside the bucket at ``path``. Raises ValueError."""
        for key, inner, kind in self._bucket(path):
            if kind & SUBBUCKET:
                yield key, {name: value for name, value, of in self._inside(inner) if not of & SUBBUCKET}

    def get(self, *path: bytes) -> bytes | None:
        """Return the value at ``path``; None if there is none. Raises ValueError."""
        return next((value for key, value in self.items(*path[:-1]) if key == path[-1]), None)

    def _bucket(self, path: Sequence[bytes]) -> Iterator[tuple[bytes, bytes, int]]:
        found = self._tree(self._at(self._root), set())
        for name in path:
            inner = next((value for key, value, kind in found if key == name and kind & SUBBUCKET), None)
            if inner is None:
                return
            found = self._inside(inner)
        yield from found

    def _inside(self, bucket: bytes) -> Iterator[tuple[bytes, bytes, int]]:
        root, _ = _unpack(_BUCKET, bucket, 0)
        return self._tree(self._at(root) if root else bucket[_BUCKET.size :], set())

    def _at(self, number: int) -> bytes:
        """Return a page with its overflow pages."""
        start = number * self._size
        _, _, _, more = _unpack(_PAGE, self._data, start)
        page = self._data[start : start + min((more + 1) * self._size, self._spend(0))]
        self._spend(len(page))
        return page

    def _spend(self, count: int) -> int:
        """Count ``count`` read bytes and return how many more may be read. Raises ValueError if none may."""
        self._left -= count
        if self._left <= 0:
            raise ValueError("pages or entries overlap")
        return self._left

    def _tree(self, page: bytes, above: set[int], depth: int = 0) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield (key, value, flags) of each entry. ``above``: pages of this tree that have been read already."""
        _, kind, count, _ = _unpack(_PAGE, page, 0)
        if kind not in (BRANCH, LEAF):
            raise ValueError(f"a page of kind {kind} in a tree")
        for entry in range(count):
            at = _PAGE.size + entry * _LEAF.size
            if kind == BRANCH:
                _, _, below = _unpack(_BRANCH, page, at)
                if below in above or depth > MAX_DEPTH:
                    raise ValueError("a tree with a cycle")
                above.add(below)
                yield from self._tree(self._at(below), above, depth + 1)
                continue
            flags, offset, keys, values = _unpack(_LEAF, page, at)
            start = at + offset
            if start + keys + values > len(page):
                raise ValueError("an entry ends beyond its page")
            self._spend(keys + values)
            yield page[start : start + keys], page[start + keys : start + keys + values], flags


def _metas(data: bytes) -> Iterator[tuple[int, int, int] | None]:
    """Yield (transaction, page size, root page) of both meta pages, None for an invalid one."""
    first = _meta(data, 0)
    yield first
    # The second one follows the first page. Without a valid first meta page the usual page sizes are tried.
    sizes = [first[1]] if first else [1 << bits for bits in range(9, 17)]
    yield from (_meta(data, size) for size in sizes)


def _meta(data: bytes, start: int) -> tuple[int, int, int] | None:
    body = data[start + _PAGE.size : start + _PAGE.size + _META.size]
    if len(body) < _META.size:
        return None
    magic, version, size, _, root, _, _, _, transaction, checksum = _META.unpack(body)
    good = magic == MAGIC and version == VERSION and 512 <= size <= 1 << 16 and checksum == _fnv(body[:-8])
    return (transaction, size, root) if good else None


def _fnv(data: bytes) -> int:
    """Return the FNV-1a hash of ``data``, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def _unpack(form: struct.Struct, data: bytes, start: int) -> tuple[int, ...]:
    try:
        return form.unpack_from(data, start)
    except (struct.error, OverflowError) as error:
        raise ValueError("a page ends too early") from error
