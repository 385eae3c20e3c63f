"""How long the plugin takes with the node's Python and with its own interpreter, and how large each is.

``python -m tests.bench.interpreters``: each start answers CNI_COMMAND=VERSION, or asks a socket that only says OK, as
at a pod's start. Both files take turns in one run, so what else the machine does hits them alike. Ratios are of
medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.unit.cni.agent import Answering, FakeAgent
from tests.unit.cni.test_protocol import environment, stdin

from ..lab.namespace import REPOSITORY

BUILT = {"node's Python": "egress-gateway", "own interpreter": "egress-gateway-standalone"}


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="of each (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory, "agent.sock")
        calls = {"VERSION": ({b"CNI_COMMAND": b"VERSION"}, b""), "ADD": (environment(), stdin(socket))}
        with FakeAgent(socket, Answering(b"OK")):
            for call, (env, raw) in calls.items():
                report(call, measured(options.runs, env, raw))
    for name, file in BUILT.items():
        size = (REPOSITORY / "dist" / file).stat().st_size
        print(f"{name:16}  {size / 1e6:5.1f} MB")
    return 0


def measured(runs: int, env: dict[bytes, bytes], raw: bytes) -> dict[str, list[float]]:
    """Return milliseconds of each run, from the start of the process to its end."""
    times: dict[str, list[float]] = {name: [] for name in BUILT}
    for _ in range(runs):
        for name, file in BUILT.items():
            started = time.perf_counter()
            subprocess.run(
                [REPOSITORY / "dist" / file], env=env, input=raw, check=True, stdout=subprocess.DEVNULL
            )
            times[name].append((time.perf_counter() - started) * 1000)
    return times


def report(call: str, times: dict[str, list[float]]) -> None:
    """Print medians, least values and the ratio to the first one's median."""
    first = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        median = statistics.median(values)
        print(
            f"{name:16}  {call:8} median {median:6.1f} ms  least {min(values):6.1f} ms  ratio {median / first:4.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
