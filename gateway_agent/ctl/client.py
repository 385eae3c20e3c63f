"""Send one request to the agent and return its answer."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from cni import contract


class NoAnswer(Exception):
    """The agent gave no answer, or refused. ``hint``: the remedy."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def ask(path: Path, call: str, wait_s: float = contract.DEADLINE_S, /, **arguments: object) -> dict[str, Any]:
    """Return the agent's answer to ``call``, which may take ``wait_s`` seconds.

    Raises :class:`NoAnswer` without an answer and for a refusal.
    """
    request = contract.CONTROL + b"\0" + json.dumps({"call": call, **arguments}, ensure_ascii=False).encode()
    if len(request) > contract.MAX_REQUEST_BYTES:
        raise NoAnswer(f"the request has more than {contract.MAX_REQUEST_BYTES >> 20} MiB")
    try:
        answer = json.loads(_exchange(path, request, wait_s))
    except PermissionError as error:
        raise NoAnswer(f"{path}: permission denied", "only root may ask the agent") from error
    except OSError as error:
        hint = f"is egress-gateway-agent running? --config names its file ({error.strerror or error})"
        raise NoAnswer(f"no agent answers at {path}", hint) from error
    except ValueError as error:
        raise NoAnswer(f"the agent at {path} ended its answer early", "its log says why") from error
    if not isinstance(answer, dict) or "error" in answer:
        refusal = answer if isinstance(answer, dict) else {"error": "the answer is no object"}
        raise NoAnswer(str(refusal["error"]), str(refusal.get("hint", "")))
    return answer


def _exchange(path: Path, request: bytes, wait_s: float) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(wait_s)
        connection.connect(str(path))
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)
