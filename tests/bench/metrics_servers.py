"""``python -m tests.bench.metrics_servers``: what an HTTP server for the metrics page costs the agent's process.

Each server runs in processes of its own, in turn with the others, with its defaults and without an access log. A
process loads the agent's modules first, then the server, in a thread with an event loop, as the agent does. One client
has a stream of server-sent events open while another asks for /metrics. The clients are in this process. A second
table shows what clients can do to each server. Servers come from PyPI into a directory that is removed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..lab.namespace import REPOSITORY
from . import report
from .metrics_server_programs import AROUND, BY_HAND, NONE, SERVERS

SECTION = "metrics servers"
REQUESTS = 50
REST_S = 3.0
"""Seconds in which nothing is asked."""
SILENCE_S = 10.0
MAX_HEAD_BYTES = 4 << 20
BASES = {"files": "", "kubernetes": "import gateway_agent.kubernetes.client, lightkube"}
"""What the agent has loaded, by the kind of its store."""


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(
        prog="tests.bench.metrics_servers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the tables into it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        names = ("microdot", "uvicorn", "tornado", "aiohttp", "hypercorn")
        pip = [sys.executable, "-m", "pip", "install", "-q", "-q", "--only-binary", ":all:", "--target"]
        subprocess.run([*pip, directory, *names], check=True)
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for _ in range(options.runs):
            for base in BASES:
                for server in SERVERS:
                    found.setdefault((base, server), []).append(_cost(server, base, directory))
        limits = [_limits(server, directory) for server in SERVERS if server not in (NONE, BY_HAND)]
    command = f"`.venv/bin/python -m {parser.prog} --runs {options.runs}`"
    text = "\n".join((command, "", report.machine(), "", _table(found), _limit_table(limits)))
    print(text)
    if options.document:
        report.write_section(options.document, SECTION, text)


class _Process:
    """A process with one server."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self._process = process
        self._errors = errors
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    def ask(self, line: str = "measure") -> dict[str, float]:
        """Return what the process measures of itself."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer

    @property
    def lines(self) -> int:
        """Return the number of lines that the process has written to its log."""
        return len(self._errors.read_text(errors="replace").splitlines())

    def spent(self, seconds: float) -> float:
        """Return the processor time, in seconds, that the process needs in a time."""
        before = self.ask("spent")["spent"]
        time.sleep(seconds)
        return self.ask("spent")["spent"] - before


@contextlib.contextmanager
def _running(server: str, base: str, directory: str) -> Iterator[_Process]:
    program = AROUND.format(base=BASES[base], server=SERVERS[server], directory=directory)
    with (
        tempfile.NamedTemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=REPOSITORY, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        ) as process,
    ):  # fmt: skip
        try:
            yield _Process(process, Path(errors.name))
        finally:
            process.kill()


def _cost(server: str, base: str, directory: str) -> dict[str, float]:
    with _running(server, base, directory) as process, contextlib.ExitStack() as stack:
        rest = process.spent(REST_S) / REST_S
        if server != NONE:
            stream = stack.enter_context(contextlib.closing(_connection(process.port)))
            stream.request("GET", "/events")
            events = stack.enter_context(stream.getresponse())
            for _ in range(REQUESTS):
                with contextlib.closing(_connection(process.port)) as connection:
                    connection.request("GET", "/metrics", headers={"Connection": "close"})
                    assert b"numbers" in connection.getresponse().read()
            assert events.readline() == b"data: x\n"
        return {**process.ask(), "rest": rest}


def _connection(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=10)


def _limits(server: str, directory: str) -> str:
    """Return a line of the second table."""
    with _running(server, "files", directory) as process:
        where = ("127.0.0.1", process.port)
        with contextlib.closing(_connection(process.port)) as connection:
            connection.request("GET", "/metrics")
            connection.getresponse().read()
        head = _head(where)
        with socket.create_connection(where, timeout=SILENCE_S) as silent:
            try:
                ended = not silent.recv(1)
            except TimeoutError:
                ended = False
        before = process.lines
        with socket.create_connection(where, timeout=1) as hostile:
            hostile.sendall(b"\x16\x03\x01\x02\r\n\r\n")
            with contextlib.suppress(OSError):
                hostile.recv(65536)
        logged = process.lines - before
        process.ask("limit")
        before = process.lines
        with socket.create_connection(where):
            spent = process.spent(1.0)
        spun = process.lines - before
    size = "all of it" if head >= MAX_HEAD_BYTES else f"{head >> 10} KiB"
    return (
        f"| {server} | {size} | {'yes' if ended else 'no'} | {logged} | {100 * spent:.0f} %, {spun} lines |"
    )


def _head(where: tuple[str, int]) -> int:
    """Return how many bytes of header fields a server takes before it answers or ends the connection."""
    field, sent = b"X: " + b"y" * 1019 + b"\r\n", 0
    with socket.create_connection(where, timeout=0.05) as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n")
        while sent < MAX_HEAD_BYTES:
            client.sendall(field)
            sent += len(field)
            if sent % (1 << 14) == 0:
                # An answer or the end; silence means that the server reads on.
                with contextlib.suppress(TimeoutError):
                    client.recv(1)
                    break
    return sent


def _table(found: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    lines = [
        "| store | server | load | memory of its own | more than without | modules | threads | at rest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (base, server), costs in sorted(found.items(), key=lambda item: item[0][0]):
        loaded, uss, rest = (
            statistics.median(cost[key] for cost in costs) for key in ("loaded", "uss", "rest")
        )
        without = statistics.median(cost["uss"] for cost in found[base, NONE])
        lines.append(
            f"| {base} | {server} | {1000 * loaded:.0f} ms | {uss / 2**20:.1f} MiB | {(uss - without) / 2**20:.1f} MiB "
            f"| {costs[0]['modules']} | {costs[0]['threads']} | {100 * rest:.2f} % |"
        )
    return "\n".join(lines) + "\n"


def _limit_table(lines: list[str]) -> str:
    return "\n".join((
        f"| server | takes of a head of {MAX_HEAD_BYTES >> 20} MiB | ends a silent connection within {SILENCE_S:g} s "
        "| log lines for a malformed request | processor with no descriptor left, log in a second |",
        "|---|---|---|---|---|",
        *lines,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
