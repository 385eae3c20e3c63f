"""One authenticated connection between two agents, without I/O: bytes of frames in, bytes of frames out.

Each end proves that it has the cluster key by a keyed hash over a random value of the other end. Then one request and
one answer follow, each with a keyed hash of all messages before. So no recorded message can be replayed, changed, or
reflected to its sender. The names of both nodes are part of the hashes.

    client → server   Hello: version, fingerprint of the client's key, nonce, both names
    server → client   nonce, keyed hash
    client → server   keyed hash; then the request with its keyed hash
    server → client   the answer with its keyed hash

A frame is its length (4 bytes, big-endian) and its content. Before the client's proof no frame has more than
:data:`MAX_HANDSHAKE_BYTES`. Messages are not encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

import msgspec

from ..lease.messages.keys import Key, Keyring
from .messages import MAX_BODY_BYTES

VERSION = 1
NONCE_BYTES = 16
MAC_BYTES = 32
MAX_HANDSHAKE_BYTES = 1024
MAX_FRAME_BYTES = MAX_BODY_BYTES + MAC_BYTES
LENGTH = struct.Struct(">I")


class Refused(Exception):
    """The other end is another node than expected, has another key, or uses another protocol."""


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """The first message. Newer versions may have more fields at the end."""

    version: int
    key: int
    """Fingerprint of the client's signing key."""
    nonce: bytes
    sender: str
    receiver: str


def frame(content: bytes) -> bytes:
    """Return a frame with this content."""
    return LENGTH.pack(len(content)) + content


class _End:
    """The common part of both ends: the derived key, and a hash of all messages."""

    def __init__(self, key: Key) -> None:
        self._key = derived(key)
        self._said = hashlib.blake2b(digest_size=MAC_BYTES, person=b"egw-v1-set-said")

    def _mac(self, role: bytes, content: bytes = b"") -> bytes:
        """Return the keyed hash of all messages and ``content``. ``role``: 4 bytes, different for each frame."""
        message = self._said.digest() + content
        person = b"egw-v1-set-" + role
        return hashlib.blake2b(message, key=self._key, person=person, digest_size=MAC_BYTES).digest()

    def _sealed(self, role: bytes, body: bytes) -> bytes:
        if len(body) > MAX_BODY_BYTES:
            raise Refused(f"a message of {len(body)} bytes is too long")
        content = body + self._mac(role, body)
        self._said.update(content)
        return frame(content)

    def _opened(self, role: bytes, content: bytes) -> bytes:
        body, mac = content[:-MAC_BYTES], content[-MAC_BYTES:]
        if not hmac.compare_digest(self._mac(role, body), mac):
            raise Refused("a message is not authentic")
        self._said.update(content)
        return body


class Client(_End):
    """The connecting end. Call the methods in order; each takes the content of a frame of the other end."""

    def __init__(self, key: Key, me: str, peer: str, nonce: bytes) -> None:
        super().__init__(key)
        self._peer = peer
        self._hello = msgspec.msgpack.encode(Hello(VERSION, key.number, nonce, me, peer))

    def hello(self) -> bytes:
        """Return the first frame."""
        self._said.update(self._hello)
        return frame(self._hello)

    def request(self, challenge: bytes, body: bytes) -> bytes:
        """Return the frames of the proof and of the request. Raises :class:`Refused` if the server lacks the key."""
        self._said.update(challenge[:NONCE_BYTES])
        if not hmac.compare_digest(self._mac(b"serv"), challenge[NONCE_BYTES:]):
            raise Refused(f"what answers is not node {self._peer}, or has not this node's key")
        proof = self._mac(b"clnt")
        self._said.update(proof)
        return frame(proof) + self._sealed(b"requ", body)

    def answer(self, content: bytes) -> bytes:
        """Return the answer. Raises :class:`Refused` if it is not authentic."""
        return self._opened(b"answ", content)


class Server(_End):
    """The accepting end. Call the methods in order."""

    def __init__(self, ring: Keyring, me: str, hello: bytes, nonce: bytes) -> None:
        """Handle the client's first frame. Raises :class:`Refused`."""
        try:
            said = msgspec.msgpack.decode(hello, type=Hello)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise Refused("it speaks another protocol") from error
        if said.version != VERSION or len(said.nonce) != NONCE_BYTES:
            raise Refused(f"it speaks version {said.version}")
        if said.receiver != me:
            raise Refused(f"it looks for node {said.receiver}")
        keys = (ring.signing, *ring.accepted)
        key = next((key for key in keys if key.number == said.key), None)
        if key is None:
            raise Refused("it has another key")
        super().__init__(key)
        self.peer = said.sender
        """Name of the other node; proven only after :meth:`proven` has returned."""
        self._said.update(hello)
        self._nonce = nonce

    def challenge(self) -> bytes:
        """Return the second frame."""
        self._said.update(self._nonce)
        return frame(self._nonce + self._mac(b"serv"))

    def proven(self, proof: bytes) -> None:
        """Verify the client's proof. Raises :class:`Refused` if the client lacks the key."""
        if not hmac.compare_digest(self._mac(b"clnt"), proof):
            raise Refused("it has not the key that it names")
        self._said.update(proof)

    def request(self, content: bytes) -> bytes:
        """Return the request. Raises :class:`Refused` if it is not authentic."""
        return self._opened(b"requ", content)

    def answer(self, body: bytes) -> bytes:
        """Return the last frame."""
        return self._sealed(b"answ", body)


def derived(key: Key) -> bytes:
    """Return the derived key of these connections: hashes by this key are valid nowhere else, and vice versa."""
    return hashlib.blake2b(b"", key=key.secret, person=b"egw-v1-set-key", digest_size=32).digest()
