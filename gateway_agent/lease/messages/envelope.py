"""The envelope of a message: a MessagePack array around one of :mod:`.bodies`. Its fields are kept in all versions."""

from __future__ import annotations

import msgspec

from ..limits import Counter as Number
from ..limits import Incarnation, Name, Version
from .bodies import Body
from .versions import PROTOCOL


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A message with the facts that make it fresh; see :mod:`.wire`."""

    sender: Name
    incarnation: Incarnation
    counter: Number
    session: Number
    """Number of incarnations of the receiver that the sender has met."""
    receiver_incarnation: Incarnation
    """Incarnation of the receiver that the sender received last; 0: never."""
    receiver_session: Number
    """The receiver's ``session`` that the sender received last."""
    body: Body
    key: Incarnation = 0
    """Fingerprint of the key that the datagram is signed with; 0: the node is of a version that does not name it."""
    version: Version = PROTOCOL
    """Version of the protocol. Nodes that do not name it have the first one."""


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """An :class:`Envelope` whose body is encoded already: once for all receivers."""

    sender: str
    incarnation: int
    counter: int
    session: int
    receiver_incarnation: int
    receiver_session: int
    body: msgspec.Raw
    key: int = 0
    version: Version = PROTOCOL


def version_of(message: memoryview) -> int:
    """Return the version that a message names which cannot be decoded; 0 if that cannot be found out."""
    try:
        return SEALED_DECODER.decode(message).version
    except ValueError:
        return 0


ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(Envelope)
SEALED_DECODER = msgspec.msgpack.Decoder(Sealed)
