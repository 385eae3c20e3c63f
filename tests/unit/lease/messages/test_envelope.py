from __future__ import annotations

import msgspec
import pytest

from gateway_agent.lease.messages.bodies import encode
from gateway_agent.lease.messages.envelope import DECODER, ENCODER, Envelope, Sealed, version_of
from gateway_agent.lease.messages.versions import PROTOCOL

from .acquainted_nodes import BODY

FIELDS: tuple[object, ...] = ("a", 1, 2, 3, 4, 5)


def test_a_body_that_is_encoded_once_is_read_as_any_other() -> None:
    sealed = ENCODER.encode(Sealed("a", 1, 2, 3, 4, 5, encode(BODY)))
    assert DECODER.decode(sealed) == Envelope("a", 1, 2, 3, 4, 5, BODY)


@pytest.mark.parametrize("version", [PROTOCOL + 1, 65535])
def test_the_version_of_an_unreadable_body_is_found(version: int) -> None:
    message = msgspec.msgpack.encode([*FIELDS, ["of a later version"], 0, version])
    with pytest.raises(msgspec.ValidationError):
        DECODER.decode(message)
    assert version_of(memoryview(message)) == version


@pytest.mark.parametrize(
    "message",
    [b"", b"\x93\x01", *(msgspec.msgpack.encode([*FIELDS, ["o"], 0, version]) for version in (0, 65536))],
    ids=["nothing", "cut off", "0", "too large"],
)
def test_where_no_version_can_be_found_out_there_is_none(message: bytes) -> None:
    assert version_of(memoryview(message)) == 0


@pytest.mark.parametrize(("field", "value"), [(0, "a" * 254), (1, -1), (2, 1 << 63), (3, -1)])
def test_every_number_and_name_is_bounded(field: int, value: object) -> None:
    fields = list(FIELDS)
    fields[field] = value
    with pytest.raises(msgspec.ValidationError):
        DECODER.decode(ENCODER.encode([*fields, BODY, 0, PROTOCOL]))
