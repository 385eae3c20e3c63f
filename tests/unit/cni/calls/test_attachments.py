"""Attachment records on disk."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.calls import attachments
from cni.calls.attachments import Attachment

RECORD = Attachment(
    container_id="c-1.a",
    ifname="eth0",
    netns="/run/netns/p",
    host_interface="veth1",
    namespace="prod",
    name="web",
    uid="u",
    labels={"app": "backend"},
    addresses=("10.0.0.2", "fd00::2"),
    group=0x45470001,
    network="pods",
)
text = st.text(max_size=20)


@given(
    st.builds(
        Attachment,
        text,
        text,
        text,
        st.sampled_from(["", "veth1", "eth0.7"]),
        text,
        text,
        text,
        st.none() | st.dictionaries(text, text, max_size=3),
        st.lists(st.ip_addresses().map(str), max_size=3).map(tuple),
        st.integers(0, 0xFFFFFFFF),
        text,
    )
)
def test_json_form_keeps_all(record: Attachment) -> None:
    assert attachments.loads(attachments.dumps(record)) == record


def test_write_and_read(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    attachments.write(run_dir, RECORD)
    attachments.write(run_dir, replace(RECORD, group=7))
    assert attachments.load(run_dir, "c-1.a", "eth0") == replace(RECORD, group=7)
    assert attachments.load_all(run_dir) == ((replace(RECORD, group=7),), ())
    directory = run_dir / "attachments"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()] == [0o600]


def test_remove_twice(tmp_path: Path) -> None:
    attachments.write(tmp_path, RECORD)
    assert attachments.remove(tmp_path, *RECORD.key)
    assert not attachments.remove(tmp_path, *RECORD.key)
    assert attachments.load_all(tmp_path) == ((), ())


@pytest.mark.parametrize(
    ("container_id", "ifname"), [("../../x", "eth0"), ("/x", "eth0"), ("c", "/../x"), ("c\0", "eth0")]
)
def test_no_name_leads_out_of_the_directory(tmp_path: Path, container_id: str, ifname: str) -> None:
    run_dir = tmp_path / "a" / "run"
    attachments.write(run_dir, replace(RECORD, container_id=container_id, ifname=ifname))
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {run_dir / "attachments"}
    assert attachments.remove(run_dir, container_id, ifname)


def test_a_record_under_another_name_is_none(tmp_path: Path) -> None:
    """To remove it would remove the file of that name, or one elsewhere."""
    attachments.write(tmp_path, RECORD)
    directory = tmp_path / "attachments"
    (directory / "c@eth0.json").write_text(attachments.dumps(replace(RECORD, container_id="../../c")))
    (directory / "deep@eth0.json").write_text("[" * 100_000)
    found, problems = attachments.load_all(tmp_path)
    assert found == (RECORD,)
    assert [problem.partition(":")[0] for problem in problems] == ["c@eth0.json", "deep@eth0.json"]


def test_nothing_there(tmp_path: Path) -> None:
    assert attachments.load_all(tmp_path) == ((), ())
    assert attachments.load(tmp_path, "c", "eth0") is None
    assert not attachments.remove(tmp_path, "c", "eth0")


def test_no_two_attachments_share_a_file(tmp_path: Path) -> None:
    keys = [("a-b", "c"), ("a", "b-c"), ("a", "b@c"), ("a", "b.json"), ("a", "\udcff")]
    keys += [("x" * 300, "eth0"), ("x" * 300, "eth1")]
    records = [replace(RECORD, container_id=container_id, ifname=ifname) for container_id, ifname in keys]
    for record in records:
        attachments.write(tmp_path, record)
    found, problems = attachments.load_all(tmp_path)
    assert problems == ()
    assert {record.key for record in found} == set(keys)
    for key in keys:
        assert attachments.remove(tmp_path, *key)


def test_names_of_the_greatest_length(tmp_path: Path) -> None:
    record = replace(RECORD, namespace="n" * 253, name="p" * 253)
    attachments.write(tmp_path, record)
    assert attachments.load(tmp_path, *record.key) == record


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Expecting value"),
        (b'{"container_id": "c"', "delimiter"),
        (b"[]", "not an object"),
        (b"{}", "addresses"),
        (b"\xff", "utf-8"),
        (json.dumps({"addresses": []}).encode(), "container_id"),
        (attachments.dumps(replace(RECORD, group=-1)).encode(), "group"),
        (attachments.dumps(replace(RECORD, labels={"a": 1})).encode(), "labels"),  # type: ignore[dict-item]
        (attachments.dumps(replace(RECORD, name=None)).encode(), "name"),  # type: ignore[arg-type]
        (attachments.dumps(replace(RECORD, addresses=(1,))).encode(), "addresses"),  # type: ignore[arg-type]
    ],
)
def test_a_broken_record_is_reported_and_the_others_are_read(
    content: bytes, says: str, tmp_path: Path
) -> None:
    attachments.write(tmp_path, RECORD)
    (tmp_path / "attachments" / "broken@eth0.json").write_bytes(content)
    found, (problem,) = attachments.load_all(tmp_path)
    assert found == (RECORD,)
    assert problem.startswith("broken@eth0.json: ") and says in problem
    assert attachments.load(tmp_path, "broken", "eth0") is None


def test_records_of_a_later_version_are_read(tmp_path: Path) -> None:
    later = {**json.loads(attachments.dumps(RECORD)), "quota": 3}
    assert attachments.loads(json.dumps(later)) == RECORD


@contextmanager
def no_room() -> Iterator[None]:
    """Files of this process cannot grow beyond some bytes: the nearest to a full disk that needs no disk.

    Only around the write itself: pytest's own output may go to a file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_no_room_leaves_what_was_there(tmp_path: Path) -> None:
    attachments.write(tmp_path, RECORD)
    with no_room(), pytest.raises(OSError):
        attachments.write(tmp_path, replace(RECORD, group=9))
    assert attachments.load(tmp_path, *RECORD.key) == RECORD
    assert os.listdir(tmp_path / "attachments") == ["c-1.a@eth0.json"]


def test_records_of_earlier_versions_are_read_and_read_ours() -> None:
    several = replace(RECORD, other_interfaces=("veth2", "veth3"), named=True)
    assert attachments.loads(attachments.dumps(several)) == several
    assert several.host_interfaces == ("veth1", "veth2", "veth3")
    earlier = json.loads(attachments.dumps(several))
    del earlier["other_interfaces"], earlier["named"]
    assert attachments.loads(json.dumps(earlier)) == RECORD
    for wrong in ("veth2", [1], ["a/b"]):
        with pytest.raises(ValueError, match="other_interfaces"):
            attachments.loads(json.dumps({**earlier, "other_interfaces": wrong}))
    with pytest.raises(ValueError, match="named"):
        attachments.loads(json.dumps({**earlier, "named": 1}))


def test_a_container_without_a_name_is_named_by_its_id() -> None:
    assert replace(RECORD, name="", container_id="0123456789abcdef").subject == "container 0123456789ab"
