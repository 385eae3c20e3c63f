"""The cluster's shared keys: one key that this node signs with, and the keys that it accepts.

A key has a fingerprint: 64 bits of a keyed hash. Each datagram names the fingerprint of its signing key in the clear,
so a node with a wrong key can be reported. The fingerprint reveals no more of the key than the keyed hash of any
recorded datagram.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from ..ipc import PeerKey
from ..voting.protocol import MILLISECOND, SECOND
from .versions import OtherVersion

MAC_BYTES = 16
MAX_KEYS = 4
"""Largest number of accepted keys beside the signing key: each costs a keyed hash for every forged datagram."""
CURRENT_NS = 10 * SECOND
"""Time for which a datagram with a wrong key is a problem: each node sends something every two seconds."""
LASTING_NS = 2 * SECOND
"""Time for which messages under another node's name must last before they are a problem."""
MAX_MISNAMED = 16
"""Largest number of remembered addresses whose messages bear another node's name."""
LOOKUP_INTERVAL_NS = 50 * MILLISECOND
"""Shortest time between two look-ups of the sender of a datagram with a wrong key: anyone can send such datagrams."""


@dataclass(frozen=True)
class Key:
    """One shared key, which is never printed."""

    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, content: bytes) -> Key:
        """Parse the content of a key file: 16 bytes or more, without white space at the end. Raises ValueError."""
        content = content.rstrip()
        if len(content) < MAC_BYTES:
            raise ValueError(f"the cluster key has {len(content)} bytes: make one of {MAC_BYTES} or more")
        return cls(hashlib.blake2b(content, person=b"egw-v1-key", digest_size=32).digest())

    def mac(self, message: bytes | memoryview) -> bytes:
        """Return the authentication code of a message."""
        return hashlib.blake2b(
            message, key=self.secret, person=b"egw-v1-datagram", digest_size=MAC_BYTES
        ).digest()

    @cached_property
    def number(self) -> int:
        """Return the fingerprint as a number of 64 bits, never 0."""
        digest = hashlib.blake2b(b"", key=self.secret, person=b"egw-v1-key-id", digest_size=8).digest()
        return int.from_bytes(digest, "big") or 1

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint as 16 hex digits."""
        return fingerprint(self.number)


@dataclass(frozen=True)
class Keyring:
    """The keys of one node."""

    signing: Key
    accepted: tuple[Key, ...] = ()
    """Keys that are accepted beside the signing key."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the fingerprints of all accepted keys; that of the signing key comes first."""
        return (self.signing.number, *(key.number for key in self.accepted))

    @property
    def named(self) -> str:
        """Return a text that names the fingerprints."""
        accepted = ", ".join(key.fingerprint for key in self.accepted)
        return f"this node signs with {self.signing.fingerprint}" + (
            f" and accepts {accepted}" if accepted else ""
        )

    def verify(self, message: bytes | memoryview, mac: bytes) -> Key | None:
        """Return the key for which ``mac`` is the authentication code of ``message``; None if there is none."""
        for key in (self.signing, *self.accepted):
            if hmac.compare_digest(key.mac(message), mac):
                return key
        return None


@dataclass(frozen=True)
class Foreign:
    """A datagram from the address of a known node, signed with a key that this node does not have."""

    address: str
    number: int
    """The fingerprint that the datagram names; 0: an older version, which names none."""
    at: int

    @property
    def named(self) -> str:
        """Return a text that names the fingerprint."""
        number = fingerprint(self.number)
        return f"the fingerprint of that key is {number}" if number else "it names no fingerprint"


def _lasts(found: tuple[str, str, int, int]) -> bool:
    """Return True if messages under this name have lasted for longer than an edit takes to reach all nodes."""
    return found[3] - found[2] >= LASTING_NS


class PeerKeys:
    """Keys, versions and names of the senders of received messages. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self.revision = 0
        """Number that grows whenever the problems change."""
        self._genuine: dict[str, tuple[int, int]] = {}
        self._foreign: dict[str, Foreign] = {}
        self._versions: dict[str, OtherVersion] = {}
        self._misnamed: dict[str, tuple[str, str, int, int]] = {}
        """Misnamed messages by source address: the name in the message, the address of that name in the inventory, and
        the times of the first and the last such message.
        """
        self._lookup_after = 0

    def genuine(self, node: str, key: Key, now: int) -> None:
        """Note an authentic message."""
        self._genuine[node] = key.number, now
        for wrong in (self._foreign, self._versions):
            self.revision += wrong.pop(node, None) is not None

    def may_look_up(self, now: int) -> bool:
        """Return True if the sender of a datagram with a wrong key may be looked up now."""
        if now < self._lookup_after:
            return False
        self._lookup_after = now + LOOKUP_INTERVAL_NS
        return True

    def foreign(self, node: str, address: str, number: int, now: int) -> None:
        """Note a datagram from a known address with a wrong key."""
        before = self._foreign.get(node)
        self._foreign[node] = Foreign(address, number, now)
        self.revision += before is None or before.number != number

    def other_version(self, node: str, address: str, version: int, now: int) -> None:
        """Note a message of another protocol version from a known address."""
        before = self._versions.get(node)
        self._versions[node] = OtherVersion(address, version, now)
        self.revision += before is None or before.version != version

    def misnamed(self, source: str, name: str, address: str, now: int) -> None:
        """Note an authentic message from an address that is not the sender's.

        ``address``: the sender's address in the inventory; empty if the inventory lacks the sender, or if ``name`` is
        this node.
        """
        before = self._misnamed.get(source)
        if before is None and len(self._misnamed) >= MAX_MISNAMED:
            return
        same = before is not None and before[:2] == (name, address)
        self._misnamed[source] = found = name, address, before[2] if before is not None and same else now, now
        self.revision += _lasts(found) and not (before is not None and same and _lasts(before))

    def keep(self, names: frozenset[str], now: int) -> None:
        """Forget all nodes except ``names``, and foreign keys and versions that are no longer in use."""
        self._genuine = {name: known for name, known in self._genuine.items() if name in names}
        current = {n: f for n, f in self._foreign.items() if n in names and now <= f.at + CURRENT_NS}
        self.revision += current.keys() != self._foreign.keys()
        self._foreign = current
        versions = {n: v for n, v in self._versions.items() if n in names and now <= v.at + CURRENT_NS}
        self.revision += versions.keys() != self._versions.keys()
        self._versions = versions
        misnamed = {source: found for source, found in self._misnamed.items() if now <= found[3] + CURRENT_NS}
        self.revision += misnamed.keys() != self._misnamed.keys()
        self._misnamed = misnamed

    def foreign_keys(self, me: str, own: Keyring) -> Iterator[str]:
        """Yield one text for each node whose key is not among ``own``, the keys of this node (``me``)."""
        for name, foreign in sorted(self._foreign.items()):
            message = f"node {name} at {foreign.address} signs with a key that this node ({me}) does not have"
            yield f"{message}: {foreign.named}; {own.named}"

    def problems(self, me: str) -> Iterator[str]:
        """Yield one text for each node with another version or a wrong name. ``me``: the name of this node."""
        for name, other in sorted(self._versions.items()):
            yield other.problem(name, me)
        for source, found in sorted(self._misnamed.items()):
            name, address, *_ = found
            if not _lasts(found):
                # The nodes learn of an edited address one after another.
                continue
            if name == me:
                yield f"the machine at {source} calls itself {me}, as this node does: two machines have one nodeName"
            else:
                known = f"has the address {address} in" if address else "is not in"
                yield f"the machine at {source} calls itself {name}, which {known} the inventory of this node ({me})"

    def table(self, now: int) -> tuple[PeerKey, ...]:
        """Return the key of the last message of each node."""
        rows = {
            n: PeerKey(n, fingerprint(k), (now - at) // MILLISECOND) for n, (k, at) in self._genuine.items()
        }
        for name, found in self._foreign.items():
            rows[name] = PeerKey(
                name, fingerprint(found.number), (now - found.at) // MILLISECOND, known=False
            )
        return tuple(rows[name] for name in sorted(rows))


def fingerprint(number: int) -> str:
    """Return a fingerprint in hex; empty for 0."""
    return f"{number:016x}" if number else ""
