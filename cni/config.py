"""The plugin's configuration: the bytes on stdin, parsed once.

This runs at each pod start before the agent is asked, so it imports only what is built into the interpreter
(:mod:`cni.fastpath`).
"""

from . import contract
from .fastpath import scan_json

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""CNI versions, oldest first."""
SINCE = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}
"""The version that introduced a command; all versions have the other commands."""
FAILURE_POLICIES = ("Fail", "Ignore")
MAX_SOCKET_PATH_BYTES = 107
"""``sun_path`` of unix(7) has 108 bytes, the last of them NUL."""


class Document:
    """A JSON object that knows where its members are in the text."""

    __slots__ = ("_members", "text")

    def __init__(self, text: str) -> None:
        """Parse ``text``. Raises :class:`ValueError` if it is not one JSON object."""
        self.text = text
        self._members = members(text)

    def get(self, name: str, default: object = None) -> object:
        """Return the value of a member; numbers are floats."""
        return self._members.get(name, (default,))[0]

    def verbatim(self, name: str) -> str:
        """Return the text of a member's value, character for character. Raises :class:`KeyError` if it is missing."""
        _, start, end = self._members[name]
        return self.text[start:end]


class PluginConfig:
    """The settings that the plugin needs to ask the agent."""

    __slots__ = ("failure_policy", "previous", "socket")

    def __init__(self, socket: str, failure_policy: str, previous: str) -> None:
        self.socket = socket
        self.failure_policy = failure_policy
        self.previous = previous
        """``prevResult``, character for character; empty if there is none."""


def read(raw: bytes) -> Document:
    """Return the configuration as a document. Raises :class:`contract.CNIError`."""
    try:
        return Document(raw.decode())
    except ValueError as error:
        wrong = f"configuration is not a JSON object: {error}"
        details = "" if raw.strip() else "the network configuration is expected on stdin"
        raise contract.CNIError(contract.NOT_JSON, wrong, details) from None


def version(command: str, document: Document) -> str:
    """Return the CNI version of the configuration, one that has ``command``. Raises :class:`contract.CNIError`."""
    value = document.get("cniVersion")
    if not isinstance(value, str) or value not in VERSIONS:
        wrong = "cniVersion is missing" if value is None else f"cniVersion {_shown(value)} is not supported"
        raise contract.CNIError(contract.INCOMPATIBLE_VERSION, wrong, f"use one of {', '.join(VERSIONS)}")
    since = SINCE.get(command, VERSIONS[0])
    if VERSIONS.index(value) < VERSIONS.index(since):
        wrong = f"CNI {value} has no {command}"
        raise contract.CNIError(contract.INCOMPATIBLE_VERSION, wrong, f"it came with {since}")
    return value


def parse(command: str, document: Document) -> PluginConfig:
    """Return what the plugin needs for ``command``. Unknown keys are ignored. Raises :class:`contract.CNIError`."""
    for key in ("name", "type"):
        value = document.get(key)
        if not isinstance(value, str) or not value:
            raise _invalid(key, value, "a string that is not empty is required")
    failure_policy = document.get("failurePolicy", "Fail")
    if not isinstance(failure_policy, str) or failure_policy not in FAILURE_POLICIES:
        raise _invalid("failurePolicy", failure_policy, f"use {' or '.join(FAILURE_POLICIES)}")
    return PluginConfig(_socket(document), failure_policy, _previous(command, document))


def _socket(document: Document) -> str:
    value = document.get("socket", contract.SOCKET)
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise _invalid("socket", value, f"use an absolute path, such as {contract.SOCKET}")
    try:
        if len(value.encode()) <= MAX_SOCKET_PATH_BYTES:
            return value
    except UnicodeEncodeError:
        raise _invalid("socket", value, "use UTF-8") from None
    raise _invalid("socket", value, f"the path of a unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes")


def _previous(command: str, document: Document) -> str:
    value = document.get("prevResult")
    if isinstance(value, dict):
        return document.verbatim("prevResult")
    if value is not None:
        raise _invalid("prevResult", value, "the result of the plugin before it is an object")
    if command in ("ADD", "CHECK"):
        hint = "chain it after the plugin that creates the interface; it cannot be the only one or the first"
        raise _invalid("prevResult", None, hint)
    return ""


def _invalid(key: str, value: object, hint: str) -> contract.CNIError:
    wrong = f"{key} is missing" if value is None else f"{key}: {_shown(value)} is not valid"
    return contract.CNIError(contract.INVALID_CONFIGURATION, wrong, hint)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def members(text: str) -> "dict[str, tuple[object, int, int]]":
    """Return the members of a JSON object: name → (value, start, end), where ``text[start:end]`` is the value.

    Of members with one name the last one counts, as in Go and in ``json``. Raises :class:`ValueError`.
    """
    found: dict[str, tuple[object, int, int]] = {}
    at = _after(text, 0, "{")
    if text[at : at + 1] != "}":
        while True:
            if text[at : at + 1] != '"':
                raise ValueError(f'no " at character {at}')
            name, at = scan_json(text, at)
            start = _after(text, at, ":")
            value, end = scan_json(text, start)
            found[str(name)] = value, start, end
            at = _blank(text, end)
            if text[at : at + 1] != ",":
                break
            at = _blank(text, at + 1)
    if _after(text, at, "}") != len(text):
        raise ValueError("text follows the object")
    return found


def _blank(text: str, at: int) -> int:
    """Return the index at which the white space that begins at ``at`` ends."""
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


def _after(text: str, at: int, character: str) -> int:
    """Expect ``character`` at ``at``, after white space. Return the index of the next token. Raises ValueError."""
    at = _blank(text, at)
    if text[at : at + 1] != character:
        raise ValueError(f"no {character} at character {at}")
    return _blank(text, at + 1)
