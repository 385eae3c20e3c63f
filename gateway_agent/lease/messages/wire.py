"""Messages between lease daemons: one authenticated datagram each.

A datagram is a keyed BLAKE2b of 16 bytes (RFC 7693) and a MessagePack envelope. A message counts only if it
is *fresh*: it names the incarnation of the receiver that the sender last received, and a counter that is higher
than that of any message of its kind before. So
nothing recorded, neither yesterday nor before a restart, can be played again. A node that has restarted is
believed to be the newer one only if it echoes the receiver's *session*, a number that grows with each such
change: else a message that was long on its way could put the old incarnation back.
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
"""Incarnations of one node that are remembered."""
MAX_DATAGRAM_BYTES = 60_000
"""Bytes of a datagram: what UDP carries, with room for headers."""
HELLO_NS = 20 * MILLISECOND
"""Shortest time between two messages that inform an outdated node of our incarnation."""
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
    """A datagram, judged. ``body`` is None where it must not be acted on."""

    sender: str = ""
    incarnation: int = 0
    """Incarnation of the sender."""
    body: Body | None = None
    reply: bytes | None = None
    """Datagram to send back at once."""
    met: bool = False
    """The sender's incarnation is new to this node."""


@dataclass
class _Acquaintance:
    incarnation: int = 0
    counters: dict[type[Body], int] = field(default_factory=dict)
    """The last counter by kind of message. An answer may overtake the heartbeat that was sent just before it."""
    session: int = 0
    """Ours with it."""
    its_session: int = 0
    retired: dict[int, None] = field(default_factory=dict)
    """Incarnations before, oldest first. The session number keeps out what is older than these."""
    hello_after: int = 0


class Endpoint:
    """One node's end of all conversations. ``peers``: addresses by name, without this node."""

    def __init__(self, name: str, incarnation: int, keys: Keyring, peers: Mapping[str, str]) -> None:
        self.name = name
        self.incarnation = incarnation
        self.keys = keys
        self.peer_keys = PeerKeys()
        self._known: dict[str, _Acquaintance] = {}
        self._sessions = 0
        """The highest session with a node that was forgotten."""
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
        known = self._acquaintance(receiver)
        return self._seal(known.session, known.incarnation, known.its_session, body)

    def _acquaintance(self, name: str) -> _Acquaintance:
        """Return what is known of a node, made if there is nothing.

        A new session begins above those with nodes that were forgotten: else a datagram that was recorded before this
        node forgot its sender would be fresh again.
        """
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = _Acquaintance(session=self._sessions + 1)
        return known

    def _seal(self, session: int, incarnation: int, its_session: int, body: msgspec.Raw) -> bytes:
        self._counter += 1
        message = ENCODER.encode(
            Sealed(self.name, self.incarnation, self._counter, session, incarnation, its_session, body,
                    self.keys.signing.number, PROTOCOL)
        )  # fmt: skip
        return self.keys.signing.mac(message) + message

    def open(self, datagram: bytes, source: str, now: int) -> Opened:
        """Verify, then decode a datagram. ``source``: the address it came from. What is refused is counted."""
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
        """Return the name that an authentic datagram bears; empty for any other, and for one that was recorded before.

        It need not be fresh: its sender may never have received anything from this node.
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
        """Return True if a datagram is older than what was received of its sender, or was meant for another node."""
        known = self._known.get(sealed.sender)
        if known is None:
            return False
        if sealed.incarnation != known.incarnation:
            return sealed.incarnation in known.retired
        older = sealed.counter <= max(known.counters.values(), default=0)
        return older or sealed.receiver_incarnation not in (0, self.incarnation)

    def _refuse_unread(self, datagram: bytes, source: str, now: int) -> str:
        """Return why a datagram is not worth its keyed hash, which costs more than all else; empty if it is."""
        if (misshapen := _misshapen(datagram)) or source in self._addresses:
            return misshapen
        # A few are read: a node whose address is another one than the inventory's is named.
        if now < self._strangers_after:
            return "unknown_address"
        self._strangers_after = now + LOOKUP_INTERVAL_NS
        return ""

    def _note_name(self, sender: str, source: str, now: int) -> None:
        """Take note of a message that bears a name which is not that of its address."""
        if self.peer_keys.may_look_up(now):
            self.peer_keys.misnamed(source, sender, self.peers.get(sender, ""), now)

    def _note_unreadable(self, message: memoryview, source: str, now: int) -> str:
        """Take note of an authentic message that cannot be decoded. Return what it is counted as."""
        version = version_of(message)
        self._note_version(version, source, now)
        return "malformed" if version in (0, PROTOCOL) else "other_version"

    def _note_version(self, version: int, source: str, now: int) -> None:
        """Take note of a message that is not of this version, if a known node has its address. 0: of an unknown one."""
        if self.peer_keys.may_look_up(now) and (name := self._at(source)):
            self.peer_keys.other_version(name, source, 0 if version == PROTOCOL else version, now)

    def _look_up(self, message: memoryview, source: str, now: int) -> None:
        """Take note of the key that a datagram names which cannot be verified, if a known node has its address."""
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
            # It may be hashed in another way.
            self.peer_keys.other_version(name, source, sealed.version, now)
        elif sealed.key not in self.keys.numbers:
            self.peer_keys.foreign(name, source, sealed.key, now)

    def _at(self, source: str) -> str:
        """Return the name of the node that has this address; empty if there is none."""
        return next((name for name, address in self.peers.items() if address == source), "")

    def _freshen(self, envelope: Envelope, now: int) -> Opened:
        known = self._acquaintance(envelope.sender)
        met = envelope.incarnation != known.incarnation
        if envelope.incarnation in known.retired:
            return self._reject("replayed")
        if envelope.receiver_incarnation != self.incarnation or (
            met and envelope.receiver_session != known.session
        ):
            return self._reject("not_fresh", self._hello(envelope, known, now))
        kind = type(envelope.body)
        if not met and envelope.counter <= known.counters.get(kind, 0):
            return self._reject("replayed")
        if met:
            known.retired[known.incarnation] = None
            while len(known.retired) > MAX_RETIRED:
                del known.retired[next(iter(known.retired))]
            known.incarnation = envelope.incarnation
            known.session += 1
            known.counters.clear()
        known.counters[kind] = envelope.counter
        known.its_session = envelope.session
        self.counters["accepted"] += 1
        # The other side may know us only by the hello that it answers here: say who we are once more.
        reply = self.seal(envelope.sender, encode(Hello())) if met else None
        return Opened(envelope.sender, envelope.incarnation, envelope.body, reply, met)

    def _hello(self, envelope: Envelope, known: _Acquaintance, now: int) -> bytes | None:
        """Return an answer to a message that was not fresh: it names the incarnation that this node claims."""
        if now < known.hello_after:
            return None
        known.hello_after = now + HELLO_NS
        return self._seal(known.session, envelope.incarnation, envelope.session, encode(Hello()))

    def _reject(self, counter: str, reply: bytes | None = None) -> Opened:
        self.counters[counter] += 1
        return Opened(reply=reply)


def _misshapen(datagram: bytes) -> str:
    """Return why this is no datagram of any version; empty if it may be one."""
    if len(datagram) <= MAC_BYTES:
        return "truncated"
    return "malformed" if len(datagram) > MAX_DATAGRAM_BYTES or datagram[MAC_BYTES] not in ENVELOPES else ""
