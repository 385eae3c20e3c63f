"""The plugin's side of the CNI protocol: environment and stdin in, result or error object out.

Source: CNI specification 1.1, sections 2 ("Execution Protocol") and 5 ("Result Types").
"""

import sys

from . import config, contract, plugin
from .fastpath import environment, exit_process, quoted, read, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

HELP = b"""\
egress-gateway: a chained CNI plugin. It tags the interfaces of pods whose traffic leaves through an egress
gateway. A container runtime runs it, with CNI_COMMAND in the environment and the configuration on stdin. Its
entry in a plugin list, after the plugin that creates the interface:

  {"type": "egress-gateway", "socket": "/run/egress-gateway/agent.sock", "failurePolicy": "Fail"}

`echo '{}' | CNI_COMMAND=VERSION egress-gateway` prints the CNI versions that it speaks.
"""

REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
    "VERSION": (),
}
"""Environment variables that a command needs."""

_ALPHANUMERIC = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_NOT_IN_IFNAME = b"/: \t\n\v\f\r"
MAX_IFNAME_BYTES = 15
"""``IFNAMSIZ`` of Linux less the NUL at the end."""


def main() -> "NoReturn":
    """Serve the one call that this process was started for."""
    if b"CNI_COMMAND" not in environment and "--version" in sys.argv[1:]:
        from .version import VERSION

        write(1, f"egress-gateway {VERSION}\n".encode())
        exit_process(0)
    status, output = serve(environment, _stdin)
    try:
        while output:
            output = output[write(1, output) :]
    except OSError:
        status = 1
    # An interpreter takes a millisecond to clean up before it exits, and nothing here needs the clean-up.
    exit_process(status)


def serve(variables: "Mapping[bytes, bytes]", stdin: "Callable[[], bytes]") -> "tuple[int, bytes]":
    """Return exit status and output of one call. Never raises."""
    version = config.VERSIONS[-1]  # of an error that comes before the configuration's own is known
    try:
        command = _command(variables)
        if command == "VERSION":
            return 0, _versions()
        raw = stdin()
        request = _request(variables, raw)
        document = config.read(raw)
        version = config.version(command, document)
        _check_environment(command, variables)
        settings = config.parse(command, document)
        plugin.run(request, settings)
        return 0, settings.previous.encode() if command == "ADD" else b""
    except plugin.Refusal as refusal:
        return 1, refusal.error
    except contract.CNIError as error:
        return 1, error_object(version, error)
    except BaseException as error:
        return 1, error_object(version, _defect(error))


def error_object(version: str, error: contract.CNIError) -> bytes:
    """Return the error in the form that the specification requires on stdout."""
    details = f', "details": {quoted(error.details)}' if error.details else ""
    text = f'{{"cniVersion": {quoted(version)}, "code": {error.code}, "msg": {quoted(error.msg)}{details}}}\n'
    return text.encode()


def _versions() -> bytes:
    supported = ", ".join(map(quoted, config.VERSIONS))
    return f'{{"cniVersion": {quoted(config.VERSIONS[-1])}, "supportedVersions": [{supported}]}}\n'.encode()


def _command(variables: "Mapping[bytes, bytes]") -> str:
    raw = variables.get(b"CNI_COMMAND", b"")
    if not raw:
        write(2, HELP)
        raise _environment("CNI_COMMAND is missing", "a container runtime sets it")
    command = contract.os_text(raw)
    if command not in REQUIRED:
        raise _environment(f"CNI_COMMAND {command!r} is not known", f"use one of {', '.join(REQUIRED)}")
    return command


def _request(variables: "Mapping[bytes, bytes]", raw: bytes) -> bytes:
    fields = tuple(variables.get(name.encode(), b"") for name in contract.ENVIRONMENT)
    request = contract.cni_request(fields, raw)
    if len(request) > contract.MAX_REQUEST_BYTES:
        wrong = f"configuration and environment have more than {contract.MAX_REQUEST_BYTES} bytes"
        raise contract.CNIError(contract.INVALID_CONFIGURATION, wrong)
    return request


def _check_environment(command: str, variables: "Mapping[bytes, bytes]") -> None:
    missing = [name for name in REQUIRED[command] if not variables.get(name.encode())]
    if missing:
        raise _environment(f"{', '.join(missing)} missing", f"CNI_COMMAND={command} needs it")
    if not REQUIRED[command]:
        return
    container_id = variables[b"CNI_CONTAINERID"]
    if container_id[0] not in _ALPHANUMERIC or container_id.translate(None, _ALPHANUMERIC + b"_.-"):
        raise _malformed(
            "CNI_CONTAINERID", container_id, "letters, digits, '_', '.' and '-', with a letter or digit first"
        )
    ifname = variables[b"CNI_IFNAME"]
    if len(ifname) > MAX_IFNAME_BYTES or ifname in (b".", b"..") or any(c in _NOT_IN_IFNAME for c in ifname):
        wanted = f"at most {MAX_IFNAME_BYTES} bytes, not '.' or '..', without '/', ':' and white space"
        raise _malformed("CNI_IFNAME", ifname, wanted)


def _malformed(name: str, value: bytes, wanted: str) -> contract.CNIError:
    return _environment(f"{name} {contract.os_text(value[:80])!r} is malformed", f"it is {wanted}")


def _environment(msg: str, details: str) -> contract.CNIError:
    return contract.CNIError(contract.INVALID_ENVIRONMENT, msg, details)


def _stdin() -> bytes:
    """Return all of stdin; if the text is longer than the contract allows, only so much that it is refused."""
    raw = b""
    while len(raw) <= contract.MAX_REQUEST_BYTES:
        part = read(0, 1 << 20)
        if not part:
            break
        raw += part
    return raw


def _defect(error: BaseException) -> contract.CNIError:
    """Return an unexpected exception as an error object with its place: no runtime shows a traceback."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{code.co_filename}:{trace.tb_lineno}, in {code.co_name}"
        trace = trace.tb_next
    return contract.CNIError(contract.INTERNAL, f"internal error: {type(error).__name__}: {error}", place)
