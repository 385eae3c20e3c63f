"""Start, stop and watch the services of this node, by ``systemctl`` and their HTTP answers."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request

AGENT, LEASE = "egress-gateway-agent.service", "egress-gateway-lease.service"
TIMEOUT_S = 120.0
"""Seconds for one call of ``systemctl``; a start or stop ends before that by the time-outs of the units."""
POLL_S = 0.2


class Failed(Exception):
    """A step failed. ``hint``: the remedy."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def systemctl(*arguments: str) -> str:
    """Run ``systemctl`` and return its output. Raises :class:`Failed`."""
    command = ("systemctl", "--no-pager", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        message = " ".join((done.stderr or done.stdout).split())
        raise Failed(f"systemctl {' '.join(arguments)}: {message}", f"journalctl -u {AGENT} -u {LEASE}")
    return done.stdout


def is_active(unit: str) -> bool:
    """Return True if a unit is running or starting."""
    try:
        state = systemctl("show", "--property=ActiveState", "--value", unit).strip()
    except Failed:
        return False
    return state in ("active", "activating", "reloading", "deactivating")


def start(units: tuple[str, ...]) -> None:
    """Start the services after their units have been written. Raises :class:`Failed`.

    A running agent first hands over its egress IPs; then its lease daemon ends.
    """
    systemctl("daemon-reload")
    systemctl("enable", *units)
    if is_active(AGENT):
        systemctl("stop", AGENT)
    systemctl("restart", LEASE)
    systemctl("start", AGENT)


def stop(units: tuple[str, ...]) -> None:
    """Stop and disable the services; the agent hands over first. Raises :class:`Failed`."""
    for unit in (AGENT, LEASE, *units):
        if is_active(unit):
            systemctl("stop", unit)
    systemctl("disable", *units)


def wait_ready(address: tuple[str, int], timeout_s: float) -> float:
    """Return the seconds until the agent was ready, by its metrics address. Raises :class:`Failed` with the reason."""
    host, port = address
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/readyz"
    began = time.monotonic()
    while True:
        reason = _not_ready(url)
        seconds = time.monotonic() - began
        if not reason:
            return seconds
        if seconds > timeout_s:
            raise Failed(
                f"the agent is not ready after {timeout_s:g} s: {reason}",
                "egressctl status; egressctl doctor",
            )
        time.sleep(POLL_S)


def _not_ready(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return "" if answer.status == 200 else str(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode(errors="replace").strip() or str(error)
    except OSError as error:
        return str(error)
