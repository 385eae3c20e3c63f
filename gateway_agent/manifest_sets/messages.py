"""What two agents say to each other on one connection: one request, one answer."""

from __future__ import annotations

from typing import Annotated

import msgspec

from .sets import MAX_SET_BYTES

MAX_BODY_BYTES = MAX_SET_BYTES + 4096
"""Bytes of a request or an answer."""
MAX_DETAIL_CHARS = 500
"""Characters of a reason."""
MAX_HELD = 256
"""Addresses that a report names."""
MAX_REPORT_BYTES = 1 << 16
Text = Annotated[str, msgspec.Meta(max_length=MAX_DETAIL_CHARS)]


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


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Asks how the other node is."""


class Try(msgspec.Struct, frozen=True, tag="try"):
    """Asks the other node to send the packets of ``egressctl test``."""

    gateway: Text
    """Empty: all."""
    to: Text
    port: Text


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


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Says how this node is: its verdict in short."""

    version: Text
    ok: bool
    verdict: Text
    """``OK``, or the title of the worst that is wrong."""
    reason: Text
    hint: Text
    """The remedy, for the operator."""
    findings: int
    """Number of things that are wrong."""
    gateway: bool
    """The node can be master of an egress IP."""
    held: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_HELD)]
    """Addresses that the node is master of."""
    held_count: int


class Tried(msgspec.Struct, frozen=True, tag="tried"):
    """Gives the lines of a test, see :mod:`gateway_agent.show.pod_tests`."""

    tests: bytes
    trouble: str = ""
    """Reason why the node could not test; empty if it has."""


Request = Ask | Fetch | Offer | Find | Look | Try
Answer = Have | Content | Result | Found | Report | Tried


class Malformed(Exception):
    """The bytes are no message of this protocol."""


def max_answer_bytes(request: Request) -> int:
    """Return how many bytes the answer to a request may have."""
    return MAX_REPORT_BYTES if isinstance(request, Look) else MAX_BODY_BYTES


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
