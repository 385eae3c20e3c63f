"""The modules of CPython that a call to the agent needs, or the standard library in their place.

``json``, ``socket`` and ``os`` are the documented interfaces, and importing them doubles the plugin's time at each pod
start (``tests.bench.interpreters``). Their parts are built into the interpreter: ``_json``, ``_socket``,
``posix``. These are private: another version of Python may lack them or change them. Then the documented modules are
imported, and the plugin is only slower.

Nothing else of the plugin imports private modules.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

try:
    from posix import _exit as exit_process
    from posix import environ as environment
    from posix import read, write
except ImportError:
    from os import _exit as exit_process
    from os import environb as environment  # type: ignore[assignment]
    from os import read, write

try:
    from _socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socket
except ImportError:
    from socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socket  # type: ignore[assignment]

__all__ = [
    "AF_UNIX", "SHUT_WR", "SOCK_STREAM", "environment", "exit_process", "quoted", "read", "scan_json",
    "socket", "write",
]  # fmt: skip


class _Numbers:
    """The context that ``_json`` reads its settings from, and the arguments of ``json``'s decoder.

    The value of a number is never used: a float accepts all digits.
    """

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = float

    @staticmethod
    def parse_constant(name: str) -> float:
        """Refuse ``NaN`` and ``Infinity``."""
        raise ValueError(f"{name} is not JSON")


def _builtin_json() -> "tuple[Callable[[str, int], tuple[object, int]], Callable[[str], str]]":
    """Return scanner and encoder of ``_json``. Raises an exception if they are not as expected."""
    import _json

    scanner = _json.make_scanner(_Numbers)  # type: ignore[arg-type]  # typeshed asks for the scanner itself
    if (
        scanner('{"a":[1,"b"]}', 0) != ({"a": [1.0, "b"]}, 13)
        or _json.encode_basestring_ascii('"') != '"\\""'
    ):
        raise TypeError("_json is another one")

    def scan(text: str, start: int) -> "tuple[object, int]":
        try:
            return scanner(text, start)
        except StopIteration:
            raise ValueError(f"no value at character {start}") from None
        except SystemError:
            # _json raises the exception of json.decoder, and this one if that module is not imported.
            raise ValueError(f"the JSON is broken after character {start}") from None

    return scan, _json.encode_basestring_ascii


def _documented_json() -> "tuple[Callable[[str, int], tuple[object, int]], Callable[[str], str]]":
    """Return the same two of ``json``."""
    import json

    settings = {name: getattr(_Numbers, name) for name in ("parse_float", "parse_int", "parse_constant")}
    return json.JSONDecoder(**settings).raw_decode, json.dumps


try:
    _scan, quoted = _builtin_json()
except (ImportError, AttributeError, TypeError, ValueError, StopIteration, SystemError):
    _scan, quoted = _documented_json()


def scan_json(text: str, start: int) -> "tuple[object, int]":
    """Return the JSON value that begins at ``start``, and the index behind it. Raises :class:`ValueError`."""
    try:
        return _scan(text, start)
    except RecursionError:
        raise ValueError("nested too deeply") from None
