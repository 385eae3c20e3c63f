"""Define the messages between two agents on one connection: one request, one answer."""

from __future__ import annotations

from typing import Annotated

import msgspec

from .sets import MAX_SET_BYTES

MAX_BODY_BYTES = MAX_SET_BYTES + 4096
"""Bytes of a request or an answer."""
MAX_DETAIL_CHARS = 500
"""Characters of a reason."""
MAX_HELD = 256
"""Largest number of addresses that a report names."""
MAX_REPORT_BYTES = 1 << 16
Text = Annotated[str, msgspec.Meta(max_length=MAX_DETAIL_CHARS)]


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """A request for the version of the other node's set."""


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """A request for the other node's set."""


class Offer(msgspec.Struct, frozen=True, tag="offer"):
    """An offer of a set."""

    manifests: bytes
    """:func:`.sets.packed`."""
    force: bool = False
    """True to apply the set even to a directory that was edited by hand."""


class Find(msgspec.Struct, frozen=True, tag="find"):
    """A request for sightings of a connection, see :mod:`gateway_agent.connection_log.sightings`."""

    query: bytes


class Look(msgspec.Struct, frozen=True, tag="look"):
    """A request for the other node's report."""


class Try(msgspec.Struct, frozen=True, tag="try"):
    """A request to send the packets of ``egressctl test``."""

    gateway: Text
    """Empty: all."""
    to: Text
    port: Text


class Have(msgspec.Struct, frozen=True, tag="have"):
    """The version of this node's set."""

    number: int
    """0: none."""
    digest: bytes
    targets: tuple[str, ...] = ()


class Content(msgspec.Struct, frozen=True, tag="content"):
    """The set of this node; empty: none."""

    manifests: bytes


class Result(msgspec.Struct, frozen=True, tag="result"):
    """The result of an offer."""

    outcome: str
    """One of :class:`.acceptance.Outcome`."""
    detail: str = ""


class Found(msgspec.Struct, frozen=True, tag="found"):
    """The sightings of a connection on this node."""

    sightings: bytes
    trouble: str = ""
    """Reason why the node could not search; empty if it has."""


class Report(msgspec.Struct, frozen=True, tag="report"):
    """The report of this node: its verdict in short."""

    version: Text
    ok: bool
    verdict: Text
    """``OK``, or the title of the worst finding."""
    reason: Text
    hint: Text
    """The remedy, for the operator."""
    findings: int
    """Number of findings."""
    gateway: bool
    """True if the node can be master of an egress IP."""
    held: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_HELD)]
    """Addresses that the node is master of."""
    held_count: int


class Tried(msgspec.Struct, frozen=True, tag="tried"):
    """The lines of a test, see :mod:`gateway_agent.show.pod_tests`."""

    tests: bytes
    trouble: str = ""
    """Reason why the node could not test; empty if it has."""


Request = Ask | Fetch | Offer | Find | Look | Try
Answer = Have | Content | Result | Found | Report | Tried


class Malformed(Exception):
    """The bytes are no message of this protocol."""


def max_answer_bytes(request: Request) -> int:
    """Return the largest size of the answer to a request, bytes."""
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
