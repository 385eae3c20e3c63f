"""The envelope of a message: a MessagePack array around one of :mod:`.bodies`. All versions keep its fields."""

from __future__ import annotations

import msgspec

from ..limits import Counter as Number
from ..limits import Incarnation, Name, Version
from .bodies import Body
from .versions import PROTOCOL


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A message with the fields that prove it fresh; see :mod:`.wire`."""

    sender: Name
    incarnation: Incarnation
    counter: Number
    session: Number
    """Number of the receiver's incarnations that the sender has received messages from."""
    receiver_incarnation: Incarnation
    """Incarnation of the receiver in the last message that the sender received; 0: none yet."""
    receiver_session: Number
    """``session`` in the last message that the sender received from the receiver."""
    body: Body
    key: Incarnation = 0
    """Fingerprint of the key that signs the datagram; 0: the node's version does not name its key."""
    version: Version = PROTOCOL
    """Version of the protocol. Nodes that do not name a version have the first one."""


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """An :class:`Envelope` whose body is already encoded, once for all receivers."""

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
    """Return the version of a message that cannot be decoded; 0 if the version cannot be read either."""
    try:
        return SEALED_DECODER.decode(message).version
    except ValueError:
        return 0


ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(Envelope)
SEALED_DECODER = msgspec.msgpack.Decoder(Sealed)
