"""Make one gRPC call without streams over a unix socket: RFC 9113, and "gRPC over HTTP2".

``grpcio`` would take 19 MB on each node for one call. This is the part of HTTP/2 that such a call needs; headers of the
answer are not decoded, so the reason of a refused call is not known.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

TIMEOUT_S = 5.0
"""Seconds that the server may be silent."""
MAX_ANSWER_BYTES = 4 << 20
_WINDOW_BYTES = 2 * MAX_ANSWER_BYTES
"""Bytes that the server may send without an update of its windows: no valid answer needs one."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_ENABLE_PUSH, _INITIAL_WINDOW_SIZE = 2, 4
_STREAM = 1
_MAX_FRAME_BYTES = 1 << 14
"""Largest payload that a server may send, as long as we allow no other."""


def call(path: Path, method: str, message: bytes) -> bytes:
    """Return the answer to a call. ``method``: as ``/package.Service/Method``. Raises OSError and ValueError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(_request(method, message))
        body = bytearray()
        for part in _answer(connection):
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    if not body:
        raise ValueError(f"the server refuses {method}")
    compressed, size = struct.unpack_from("!BI", body) if len(body) >= 5 else (0, -1)
    if compressed or size != len(body) - 5:
        raise ValueError("an answer that is no gRPC message")
    return bytes(body[5:])


def _request(method: str, message: bytes) -> bytes:
    settings = struct.pack("!HIHI", _ENABLE_PUSH, 0, _INITIAL_WINDOW_SIZE, _WINDOW_BYTES)
    headers = {
        ":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    # RFC 7541, 6.2.2: literals without an index; all are shorter than 127 bytes.
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    return b"".join(
        (
            _PREFACE,
            _frame(_SETTINGS, 0, 0, settings),
            _frame(_WINDOW_UPDATE, 0, 0, struct.pack("!I", _WINDOW_BYTES)),
            _frame(_HEADERS, _END_HEADERS, _STREAM, block),
            _frame(_DATA, _END_STREAM, _STREAM, struct.pack("!BI", 0, len(message)) + message),
        )
    )


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("ascii")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _answer(connection: socket.socket) -> Iterator[bytes]:
    """Yield the data of the stream until its end. Raises OSError and ValueError."""
    while True:
        head = _exactly(connection, 9)
        size = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack("!BBI", head[3:])
        if size > _MAX_FRAME_BYTES:
            raise ValueError("an answer that is no HTTP/2")
        payload = _exactly(connection, size)
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            connection.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind in (_RST_STREAM, _GOAWAY):
            raise ValueError("the server ended the call early")
        elif kind == _DATA and stream == _STREAM:
            padding = 1 + payload[0] if flags & _PADDED and payload else 0
            yield payload[1 : len(payload) - padding + 1] if padding else payload
        if kind in (_DATA, _HEADERS) and stream == _STREAM and flags & _END_STREAM:
            return


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise ValueError("the server has hung up")
        found += part
    return bytes(found)
