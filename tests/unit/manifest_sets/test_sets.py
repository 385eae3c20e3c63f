"""Sets of manifests: one form in bytes, bounds, and an order of versions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.manifest_sets import sets
from gateway_agent.manifest_sets.sets import Malformed, ManifestSet

FILES = {"b.yaml": "b: 1\n", "a.yaml": "a: ä\n"}


def test_equal_files_have_equal_bytes_in_any_order() -> None:
    one, other = (sets.made(3, "w1", dict(items)) for items in (FILES.items(), reversed(FILES.items())))
    assert sets.packed(one) == sets.packed(other)
    assert sets.unpacked(sets.packed(one)) == one
    assert one.content == sets.content_of(sorted(FILES.items()))


def test_of_two_sets_of_one_number_all_nodes_prefer_the_same() -> None:
    one, other = sets.made(3, "w1", FILES), sets.made(3, "w2", FILES)
    assert one.content == other.content
    assert (one.version > other.version) != (other.version > one.version)
    assert sets.made(4, "w1", FILES).version > max(one.version, other.version)


@pytest.mark.parametrize(
    "name",
    [
        "../a.yaml",
        "/etc/a.yaml",
        "a/b.yaml",
        ".a.yaml",
        "a.txt",
        "",
        "a\n.yaml",
        "a\0.yaml",
        "x" * 240 + ".yaml",
    ],
)
def test_a_set_leads_nowhere_but_into_its_directory(name: str) -> None:
    with pytest.raises(Malformed, match="no name of a manifest file"):
        sets.made(1, "w1", {name: "text"})


WRONG: dict[str, dict[str, Any]] = {
    "no number": {"number": 0},
    "a number that leaves no room for the next": {"number": sets.MAX_COUNTER + 1},
    "no file": {"files": ()},
    "files out of order": {"files": (("b.yaml", ""), ("a.yaml", ""))},
    "a file twice": {"files": (("a.yaml", ""), ("a.yaml", "x"))},
    "no author": {"author": ""},
    "targets out of order": {"targets": ("w2", "w1")},
    "an ancestor of another length": {"ancestors": (b"short",)},
    "too many ancestors": {"ancestors": tuple(bytes([n]) * 32 for n in range(sets.ANCESTORS + 1))},
    "too many files": {"files": tuple((f"{n:05}.yaml", "") for n in range(sets.MAX_FILES + 1))},
}


@pytest.mark.parametrize("change", WRONG)
def test_a_set_of_another_form_is_refused(change: str) -> None:
    good = sets.made(1, "w1", FILES)
    with pytest.raises(Malformed):
        sets.unpacked(sets.packed(msgspec.structs.replace(good, **WRONG[change])))


def test_a_set_is_bounded() -> None:
    with pytest.raises(Malformed, match="more than 2 MiB"):
        sets.made(1, "w1", {"a.yaml": "x" * sets.MAX_SET_BYTES})
    with pytest.raises(Malformed):
        sets.unpacked(bytes(sets.MAX_SET_BYTES + 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_set_or_refused(raw: bytes) -> None:
    try:
        found = sets.unpacked(raw)
    except Malformed:
        return
    assert isinstance(found, ManifestSet)


@given(st.data())
def test_a_changed_byte_is_a_set_of_another_version_or_refused(data: st.DataObject) -> None:
    good = sets.made(1, "w1", FILES, ["w1"], [bytes(32)])
    raw = bytearray(sets.packed(good))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        found = sets.unpacked(bytes(raw))
    except Malformed:
        return
    assert found.version != good.version
