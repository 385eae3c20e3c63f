"""What two agents say to each other on one connection: one request, one answer."""

from __future__ import annotations

import msgspec

from .sets import MAX_SET_BYTES

MAX_BODY_BYTES = MAX_SET_BYTES + 4096
"""Bytes of a request or an answer."""
MAX_DETAIL_CHARS = 500
"""Characters of a reason."""


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Asks which set the other node has."""


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """Asks for the set that the other node has."""


class Offer(msgspec.Struct, frozen=True, tag="offer"):
    """Offers a set."""

    manifests: bytes
    """:func:`.sets.packed`."""
    force: bool = False
    """Apply the set in place of a directory that was edited by hand, too."""


class Find(msgspec.Struct, frozen=True, tag="find"):
    """Asks what the other node has seen of a connection, see :mod:`gateway_agent.connection_log.sightings`."""

    query: bytes


class Have(msgspec.Struct, frozen=True, tag="have"):
    """Names the set that this node has."""

    number: int
    """0: none."""
    digest: bytes
    targets: tuple[str, ...] = ()


class Content(msgspec.Struct, frozen=True, tag="content"):
    """Gives the set that this node has; empty: none."""

    manifests: bytes


class Result(msgspec.Struct, frozen=True, tag="result"):
    """Says what has become of an offer."""

    outcome: str
    """One of :class:`.acceptance.Outcome`."""
    detail: str = ""


class Found(msgspec.Struct, frozen=True, tag="found"):
    """Gives what this node has seen of a connection."""

    sightings: bytes
    trouble: str = ""
    """Reason why the node could not search; empty if it has."""


Request = Ask | Fetch | Offer | Find
Answer = Have | Content | Result | Found


class Malformed(Exception):
    """The bytes are no message of this protocol."""


def encoded(message: Request | Answer) -> bytes:
    """Return the bytes of a message."""
    return _ENCODER.encode(message)


def request(raw: bytes) -> Request:
    """Return the request in ``raw``. Raises :class:`Malformed`."""
    try:
        found: Request = _REQUESTS.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    return found


def answer(raw: bytes) -> Answer:
    """Return the answer in ``raw``. Raises :class:`Malformed`."""
    try:
        found: Answer = _ANSWERS.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    return found


_ENCODER = msgspec.msgpack.Encoder()
_REQUESTS = msgspec.msgpack.Decoder(Request)
_ANSWERS = msgspec.msgpack.Decoder(Answer)
