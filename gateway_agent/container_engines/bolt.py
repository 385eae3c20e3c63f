"""Reads a BoltDB file (go.etcd.io/bbolt, ``page.go``, ``bucket.go``, ``db.go``): podman kept its containers in one.

A key-value file of pages: two meta pages, of which the valid one with the higher transaction counts, and B+ trees.
Everything in it may be anything: what is not as it must be raises ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

MAGIC = 0xED0CDAED
VERSION = 2
BRANCH, LEAF = 1, 2
"""Kinds of pages."""
SUBBUCKET = 1
"""Kind of a leaf's entry."""
DEEPEST = 32
"""Levels of one tree: with two entries on each page that is more than any file can hold."""
MOST_READ = 16
"""How often the whole file may be read in all: pages and entries of a damaged one may overlap."""
_PAGE = struct.Struct("<QHHI")
"""Number, kind, entries, further pages of the same."""
_META = struct.Struct("<IIIIQQQQQQ")
"""Magic, version, page size, flags, root page, sequence, free list, pages, transaction, checksum."""
_BRANCH = struct.Struct("<IIQ")
"""Offset from here, length of the key, page."""
_LEAF = struct.Struct("<IIII")
"""Kind, offset from here, length of the key, length of the value."""
_BUCKET = struct.Struct("<QQ")
"""Root page (0: the page follows here), sequence."""


class Bolt:
    """The content of a file, as of its last transaction."""

    def __init__(self, data: bytes) -> None:
        """Raises ValueError if it is no such file."""
        self._data = data
        self._left = MOST_READ * len(data)
        metas = [meta for meta in _metas(data) if meta is not None]
        if not metas:
            raise ValueError("no valid BoltDB file")
        _, self._size, self._root = max(metas)

    def items(self, *path: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield key and value of each entry of the bucket that ``path`` leads to; None: the entry is a bucket.

        Nothing if there is no such bucket. Raises ValueError.
        """
        for key, value, kind in self._bucket(path):
            yield key, None if kind & SUBBUCKET else value

    def buckets(self, *path: bytes) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        """Yield key and values of each bucket in the bucket that ``path`` leads to. Raises ValueError."""
        for key, inner, kind in self._bucket(path):
            if kind & SUBBUCKET:
                yield key, {name: value for name, value, of in self._inside(inner) if not of & SUBBUCKET}

    def get(self, *path: bytes) -> bytes | None:
        """Return the value at the end of ``path``; None if there is none. Raises ValueError."""
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
        """Return a page, with the further pages that belong to it."""
        start = number * self._size
        _, _, _, more = _unpack(_PAGE, self._data, start)
        page = self._data[start : start + min((more + 1) * self._size, self._spend(0))]
        self._spend(len(page))
        return page

    def _spend(self, count: int) -> int:
        """Return how many bytes may still be read after these. Raises ValueError if there are none."""
        self._left -= count
        if self._left <= 0:
            raise ValueError("pages or entries overlap")
        return self._left

    def _tree(self, page: bytes, above: set[int], depth: int = 0) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield key, value and kind of each entry. ``above``: the pages of this tree that were read already."""
        _, kind, count, _ = _unpack(_PAGE, page, 0)
        if kind not in (BRANCH, LEAF):
            raise ValueError(f"a page of kind {kind} in a tree")
        for entry in range(count):
            at = _PAGE.size + entry * _LEAF.size
            if kind == BRANCH:
                _, _, below = _unpack(_BRANCH, page, at)
                if below in above or depth > DEEPEST:
                    raise ValueError("a tree without end")
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
    """Yield of each valid meta page transaction, page size and root page."""
    first = _meta(data, 0)
    yield first
    # The second one lies behind the first page, whose size a valid first one tells; else the usual sizes are tried.
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
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def _unpack(form: struct.Struct, data: bytes, start: int) -> tuple[int, ...]:
    try:
        return form.unpack_from(data, start)
    except (struct.error, OverflowError) as error:
        raise ValueError("a page ends too early") from error
