"""BoltDB files: what is in them, and what is wrong with them in words. ``tests/e2e/test_podman.py`` reads real ones."""

from __future__ import annotations

import struct

import pytest

from gateway_agent.container_engines.bolt import BRANCH, MAGIC, VERSION, Bolt, _fnv
from tests.fuzz.engines import PAGE, Tree, bolt_file, content

TREE: Tree = {b"a": {b"k": b"v", b"inner": {b"x": b"1"}}, b"b": {}}


def test_everything_is_read() -> None:
    assert content(bolt_file(TREE)) == TREE
    bolt = Bolt(bolt_file(TREE))
    assert bolt.get(b"a", b"inner", b"x") == b"1"
    assert dict(bolt.buckets(b"a")) == {b"inner": {b"x": b"1"}}
    assert dict(bolt.buckets()) == {b"a": {b"k": b"v"}, b"b": {}}
    assert bolt.get(b"a", b"none") is bolt.get(b"none", b"x") is None
    assert list(bolt.items(b"a", b"k")) == []


def test_the_meta_page_of_the_last_whole_transaction_counts() -> None:
    data = bytearray(bolt_file(TREE))
    data[PAGE + 40] ^= 1
    assert content(bytes(data)) == TREE
    data[40] ^= 1
    with pytest.raises(ValueError, match="no valid BoltDB file"):
        Bolt(bytes(data))


def test_the_second_meta_page_is_found_without_the_first() -> None:
    assert content(bytes(PAGE) + bolt_file(TREE)[PAGE:]) == TREE


def test_pages_in_levels_are_one_bucket() -> None:
    """The root becomes a branch of two leaves, as in a file that has grown."""
    first, second = bolt_file({b"a": {b"k": b"v"}}), bolt_file({b"b": {b"k": b"w"}})
    data = bytearray(first + bytes(PAGE) + second[3 * PAGE : 4 * PAGE] + second[4 * PAGE :])
    # Where the two roots are now, and the bucket of the second one.
    data[5 * PAGE : 6 * PAGE], root = data[3 * PAGE : 4 * PAGE], 3 * PAGE
    moved = data[6 * PAGE : 7 * PAGE].replace(struct.pack("<QQ", 4, 0), struct.pack("<QQ", 7, 0))
    data[6 * PAGE : 7 * PAGE] = moved
    below = struct.pack("<IIQ", 32, 1, 5) + struct.pack("<IIQ", 17, 1, 6)
    branch = struct.pack("<QHHI", 3, BRANCH, 2, 0) + below + b"ab"
    data[root : root + PAGE] = branch.ljust(PAGE, b"\0")
    assert content(bytes(data)) == {b"a": {b"k": b"v"}, b"b": {b"k": b"w"}}
    loop = bytes(data[:root]) + branch.replace(struct.pack("<Q", 6), struct.pack("<Q", 5)).ljust(PAGE, b"\0")
    with pytest.raises(ValueError, match="a tree with a cycle"):
        content(loop + bytes(data[root + PAGE :]))


@pytest.mark.parametrize("length", [0, 10, PAGE, 3 * PAGE, 3 * PAGE + 8, 4 * PAGE + 20])
def test_a_file_that_was_cut_off_is_an_error_with_a_text(length: int) -> None:
    with pytest.raises(ValueError, match=r"BoltDB|page"):
        content(bolt_file(TREE)[:length])


def test_pages_that_overlap_are_not_read_again_and_again() -> None:
    """Each page claims the whole rest of the file: without a bound the time grows with the square of the size."""
    size, many = 512, 4000

    def branch(first: int) -> bytes:
        below = range(first, min(first + 30, many))
        entries = b"".join(struct.pack("<IIQ", 0, 0, page) for page in below)
        return (struct.pack("<QHHI", 0, BRANCH, len(below), (1 << 32) - 1) + entries).ljust(size, b"\0")

    body = struct.pack("<IIIIQQQQQ", MAGIC, VERSION, size, 0, 2, 0, 0, 0, 1)
    meta = (struct.pack("<QHHI", 0, 4, 0, 0) + body + struct.pack("<Q", _fnv(body))).ljust(size, b"\0")
    pages = [branch(3 + 30 * number) for number in range(many - 2)]
    with pytest.raises(ValueError, match="overlap"):
        list(Bolt(meta * 2 + b"".join(pages)).items(b"ctr"))
