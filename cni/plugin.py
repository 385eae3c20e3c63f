"""One CNI call: by the agent, else by the plugin itself.

Before the agent is asked, only modules that are built into the interpreter are imported: this runs at each pod start.
"""

import time

from . import config, contract
from .fastpath import AF_UNIX, SHUT_WR, SOCK_STREAM, socket

CONNECT_RETRY_S = 0.005
"""Time between two attempts while the agent's backlog is full: a unix socket with a time-out does not wait by itself.
"""


class NoAnswer(Exception):
    """The agent has not answered; the text says why."""


class Refusal(Exception):
    """The agent's error object, in the form in which the plugin prints it."""

    def __init__(self, error: bytes) -> None:
        super().__init__(error)
        self.error = error


def run(request: bytes, settings: config.PluginConfig) -> None:
    """Carry out the call of ``request`` (:func:`contract.cni_request`).

    Raises :class:`Refusal` or :class:`contract.CNIError`.
    """
    try:
        answer = ask(settings.socket, request, contract.DEADLINE_S)
    except (NoAnswer, OSError) as error:
        from . import vendored

        # Before all else: if the interpreter is in the plugin's file, the standard library is in that file, too.
        vendored.unpack()
        from .calls import fallback

        fallback.run(request, settings.socket, str(error))
        return
    if answer != contract.OK:
        raise Refusal(answer[len(contract.ERROR) :])


def ask(path: str, request: bytes, seconds: float) -> bytes:
    """Return the agent's answer: :data:`contract.OK`, or :data:`contract.ERROR` and a whole JSON object.

    Takes ``seconds`` at most. Raises :class:`NoAnswer` or :class:`OSError`.
    """
    deadline = time.monotonic() + seconds
    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        _connect(connection, path, deadline)
        connection.settimeout(_left(deadline))
        connection.sendall(request)
        connection.shutdown(SHUT_WR)
        answer = b""
        while len(answer) <= contract.MAX_REQUEST_BYTES:
            connection.settimeout(_left(deadline))
            part = connection.recv(1 << 16)
            if not part:
                return _whole(answer)
            answer += part
    finally:
        connection.close()
    raise NoAnswer(f"answered more than {contract.MAX_REQUEST_BYTES} bytes")


def _connect(connection: socket, path: str, deadline: float) -> None:
    while True:
        connection.settimeout(_left(deadline))
        try:
            connection.connect(path)
            return
        except BlockingIOError:
            time.sleep(CONNECT_RETRY_S)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise NoAnswer("no answer in time")
    return left


def _whole(answer: bytes) -> bytes:
    """Return ``answer`` if it is whole: an agent that dies while it writes leaves a part. Raises :class:`NoAnswer`."""
    if answer == contract.OK:
        return answer
    if not answer:
        raise NoAnswer("closed the connection without an answer")
    try:
        if answer.startswith(contract.ERROR):
            config.members(answer[len(contract.ERROR) :].decode())
            return answer
    except ValueError:
        pass
    raise NoAnswer("broke off in the middle of its answer")
