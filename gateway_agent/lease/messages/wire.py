"""Messages between lease daemons: one authenticated datagram each.

A datagram is a keyed BLAKE2b of 16 bytes (RFC 7693) and a MessagePack envelope. A message counts only if it is *fresh*:
it names the current incarnation of the receiver, and a counter higher than in any earlier message of its kind. So no
recorded message, of yesterday or of before a restart, can be replayed. A new incarnation of a node is accepted only if
its message echoes the receiver's *session*, a number that grows with each such change: otherwise a delayed message
could bring the old incarnation back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from ..voting.protocol import MILLISECOND
from .bodies import Body, Hello, encode
from .envelope import DECODER, ENCODER, SEALED_DECODER, Envelope, Sealed, version_of
from .keys import LOOKUP_INTERVAL_NS, MAC_BYTES, Keyring, PeerKeys
from .versions import PROTOCOL

MAX_RETIRED = 256
"""Largest number of remembered incarnations of one node."""
MAX_DATAGRAM_BYTES = 60_000
"""Largest size of a datagram: what UDP carries, with room for headers."""
HELLO_NS = 20 * MILLISECOND
"""Shortest time between two hello messages to a node that does not know this node's incarnation."""
ENVELOPES = range(0x90, 0xA0)
"""First bytes of an envelope of any version: a MessagePack array of up to 15 fields."""
REJECTIONS = (
    "bad_mac",
    "truncated",
    "malformed",
    "replayed",
    "not_fresh",
    "unknown_sender",
    "wrong_address",
    "out_of_bounds",
    "other_version",
    "unknown_address",
)


class Opened(msgspec.Struct, frozen=True):
    """A verified datagram. ``body`` is None if the message must not be acted on."""

    sender: str = ""
    incarnation: int = 0
    """Incarnation of the sender."""
    body: Body | None = None
    reply: bytes | None = None
    """Datagram to send back at once."""
    new_incarnation: bool = False
    """True if the sender's incarnation is new to this node."""


@dataclass
class _PeerSession:
    incarnation: int = 0
    counters: dict[type[Body], int] = field(default_factory=dict)
    """The last counter by kind of message: an answer may overtake the heartbeat that was sent just before."""
    session: int = 0
    """This node's session with the other node."""
    peer_session: int = 0
    retired: dict[int, None] = field(default_factory=dict)
    """Earlier incarnations, oldest first. The session number excludes still older ones."""
    hello_after: int = 0


class Endpoint:
    """One node's end of the communication with all peers. ``peers``: addresses by name, without this node."""

    def __init__(self, name: str, incarnation: int, keys: Keyring, peers: Mapping[str, str]) -> None:
        self.name = name
        self.incarnation = incarnation
        self.keys = keys
        self.peer_keys = PeerKeys()
        self._known: dict[str, _PeerSession] = {}
        self._sessions = 0
        """The highest session number with any node that was forgotten."""
        self.peers = peers
        self._strangers_after = 0
        self.counters = Counter(dict.fromkeys(("accepted", *REJECTIONS), 0))
        self._counter = 0

    @property
    def peers(self) -> Mapping[str, str]:
        """Return the addresses of the other nodes by name."""
        return self._peers

    @peers.setter
    def peers(self, peers: Mapping[str, str]) -> None:
        self._peers, self._addresses = peers, frozenset(peers.values())
        for name in self._known.keys() - peers.keys():
            self._sessions = max(self._sessions, self._known.pop(name).session)

    def seal(self, receiver: str, body: msgspec.Raw) -> bytes:
        """Return the datagram that carries ``body`` (see :func:`encode`) to ``receiver``."""
        known = self._peer_session(receiver)
        return self._seal(known.session, known.incarnation, known.peer_session, body)

    def _peer_session(self, name: str) -> _PeerSession:
        """Return the record of a node; create it if there is none.

        A new session number is higher than those with forgotten nodes: otherwise a datagram recorded before this node
        forgot its sender would be fresh again.
        """
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = _PeerSession(session=self._sessions + 1)
        return known

    def _seal(self, session: int, incarnation: int, peer_session: int, body: msgspec.Raw) -> bytes:
        self._counter += 1
        message = ENCODER.encode(
            Sealed(self.name, self.incarnation, self._counter, session, incarnation, peer_session, body,
                    self.keys.signing.number, PROTOCOL)
        )  # fmt: skip
        return self.keys.signing.mac(message) + message

    def open(self, datagram: bytes, source: str, now: int) -> Opened:
        """Verify, then decode a datagram; count it if it is refused. ``source``: the source address of the datagram."""
        if refusal := self._refuse_unread(datagram, source, now):
            return self._reject(refusal)
        message = memoryview(datagram)[MAC_BYTES:]
        key = self.keys.verify(message, datagram[:MAC_BYTES])
        if key is None:
            self._look_up(message, source, now)
            return self._reject("bad_mac")
        try:
            envelope = DECODER.decode(message)
        except ValueError:  # msgspec.DecodeError, or a name that is no UTF-8
            return self._reject(self._note_unreadable(message, source, now))
        if envelope.version != PROTOCOL:
            self._note_version(envelope.version, source, now)
            return self._reject("other_version")
        if envelope.sender not in self.peers:
            self._note_name(envelope.sender, source, now)
            return self._reject("unknown_sender")
        if self.peers[envelope.sender] != source:
            self._note_name(envelope.sender, source, now)
            return self._reject("wrong_address")
        opened = self._freshen(envelope, now)
        if opened.body is not None:
            self.peer_keys.genuine(envelope.sender, key, now)
        return opened

    def authentic_sender(self, datagram: bytes) -> str:
        """Return the sender's name in an authentic datagram; empty if the datagram is not authentic, or a replay.

        The datagram need not be fresh: the sender may never have received a message from this node.
        """
        message = memoryview(datagram)[MAC_BYTES:]
        if _misshapen(datagram) or self.keys.verify(message, datagram[:MAC_BYTES]) is None:
            return ""
        try:
            sealed = SEALED_DECODER.decode(message)
        except ValueError:
            return ""
        return "" if self._is_recorded(sealed) else sealed.sender

    def _is_recorded(self, sealed: Sealed) -> bool:
        """Return True if a datagram is older than the last one of its sender, or was addressed to another node."""
        known = self._known.get(sealed.sender)
        if known is None:
            return False
        if sealed.incarnation != known.incarnation:
            return sealed.incarnation in known.retired
        older = sealed.counter <= max(known.counters.values(), default=0)
        return older or sealed.receiver_incarnation not in (0, self.incarnation)

    def _refuse_unread(self, datagram: bytes, source: str, now: int) -> str:
        """Return why a datagram is refused before its keyed hash, the most costly check; empty if it is not."""
        if (misshapen := _misshapen(datagram)) or source in self._addresses:
            return misshapen
        # A few are verified all the same, so that a node with another address than in the inventory is reported.
        if now < self._strangers_after:
            return "unknown_address"
        self._strangers_after = now + LOOKUP_INTERVAL_NS
        return ""

    def _note_name(self, sender: str, source: str, now: int) -> None:
        """Note a message whose name does not belong to its source address."""
        if self.peer_keys.may_look_up(now):
            self.peer_keys.misnamed(source, sender, self.peers.get(sender, ""), now)

    def _note_unreadable(self, message: memoryview, source: str, now: int) -> str:
        """Note an authentic message that cannot be decoded. Return the counter to raise."""
        version = version_of(message)
        self._note_version(version, source, now)
        return "malformed" if version in (0, PROTOCOL) else "other_version"

    def _note_version(self, version: int, source: str, now: int) -> None:
        """Note a message of another version from a known address. ``version``: 0 if it cannot be read."""
        if self.peer_keys.may_look_up(now) and (name := self._at(source)):
            self.peer_keys.other_version(name, source, 0 if version == PROTOCOL else version, now)

    def _look_up(self, message: memoryview, source: str, now: int) -> None:
        """Note the key that an unverifiable datagram from a known address names."""
        if not self.peer_keys.may_look_up(now):
            return
        name = self._at(source)
        if not name:
            return
        try:
            sealed = SEALED_DECODER.decode(message)
        except ValueError:
            return
        if sealed.version != PROTOCOL:
            # The datagram's version may use another hash.
            self.peer_keys.other_version(name, source, sealed.version, now)
        elif sealed.key not in self.keys.numbers:
            self.peer_keys.foreign(name, source, sealed.key, now)

    def _at(self, source: str) -> str:
        """Return the name of the node that has this address; empty if there is none."""
        return next((name for name, address in self.peers.items() if address == source), "")

    def _freshen(self, envelope: Envelope, now: int) -> Opened:
        known = self._peer_session(envelope.sender)
        new_incarnation = envelope.incarnation != known.incarnation
        if envelope.incarnation in known.retired:
            return self._reject("replayed")
        if envelope.receiver_incarnation != self.incarnation or (
            new_incarnation and envelope.receiver_session != known.session
        ):
            return self._reject("not_fresh", self._hello(envelope, known, now))
        kind = type(envelope.body)
        if not new_incarnation and envelope.counter <= known.counters.get(kind, 0):
            return self._reject("replayed")
        if new_incarnation:
            known.retired[known.incarnation] = None
            while len(known.retired) > MAX_RETIRED:
                del known.retired[next(iter(known.retired))]
            known.incarnation = envelope.incarnation
            known.session += 1
            known.counters.clear()
        known.counters[kind] = envelope.counter
        known.peer_session = envelope.session
        self.counters["accepted"] += 1
        # The other node may know this one only by the hello that it answers here: name the incarnation once more.
        reply = self.seal(envelope.sender, encode(Hello())) if new_incarnation else None
        return Opened(envelope.sender, envelope.incarnation, envelope.body, reply, new_incarnation)

    def _hello(self, envelope: Envelope, known: _PeerSession, now: int) -> bytes | None:
        """Return the answer to a message that was not fresh: a hello with this node's incarnation."""
        if now < known.hello_after:
            return None
        known.hello_after = now + HELLO_NS
        return self._seal(known.session, envelope.incarnation, envelope.session, encode(Hello()))

    def _reject(self, counter: str, reply: bytes | None = None) -> Opened:
        self.counters[counter] += 1
        return Opened(reply=reply)


def _misshapen(datagram: bytes) -> str:
    """Return why the bytes are no datagram of any version; empty if they may be one."""
    if len(datagram) <= MAC_BYTES:
        return "truncated"
    return "malformed" if len(datagram) > MAX_DATAGRAM_BYTES or datagram[MAC_BYTES] not in ENVELOPES else ""
