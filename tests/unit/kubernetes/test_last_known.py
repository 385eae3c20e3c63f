from __future__ import annotations

from pathlib import Path

import pytest

from gateway_agent.kubernetes import last_known
from tests.lab import documents

GATEWAY = documents.gateway("partner", "eth1", {"role": "egress"})


def test_objects_are_read_as_they_were_stored(tmp_path: Path) -> None:
    path = tmp_path / last_known.LAST_KNOWN
    assert last_known.write(path, {"EgressGateway": [GATEWAY]}) == ""
    assert path.stat().st_mode & 0o777 == 0o600
    [(kind, stored)] = last_known.read(path).items()
    assert (kind, list(stored.values())) == ("EgressGateway", [GATEWAY])
    assert [gateway.name for gateway in last_known.inventory(tmp_path).gateways] == ["partner"]


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'{"EgressGateway": 5}', b"\xff", b"[" * 100_000]
)
def test_a_file_that_cannot_be_read_has_no_objects(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / last_known.LAST_KNOWN).write_bytes(content)
    assert last_known.read(tmp_path / last_known.LAST_KNOWN) == {}
    found = last_known.inventory(tmp_path)
    assert (found.gateways, found.policies, found.nodes) == ((), (), ())


def test_a_copy_that_cannot_be_written_is_a_reason_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / last_known.LAST_KNOWN
    last_known.write(path, {"EgressGateway": [GATEWAY]})
    before = path.read_bytes()
    path.with_name(".last-known.json.draft").mkdir()
    assert "Is a directory" in last_known.write(path, {})
    assert path.read_bytes() == before
    assert "No such file" in last_known.write(tmp_path / "gone" / "a.json", {})
