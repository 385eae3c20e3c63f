"""How the cost of a node grows with the cluster: nodes, egress IPs, policies, pods, each alone.

``.venv/bin/python -m tests.bench.scale [--only nodes --sizes 10,1000] [--json FILE] [--document FILE]``; needs root.
Each line is a lab of its own; ratios are to the smallest of the same run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from . import report
from .scale_lab import Costs, Size, measure

SIZES: Mapping[str, tuple[int, ...]] = {
    "nodes": (10, 100, 1_000, 5_000),
    "addresses": (1, 64, 1_024, 4_096),
    "policies": (1, 100, 1_000),
    "pods": (1, 50, 250),
}
REST_S = 20.0
SECTION = "scale"
COMMAND = ".venv/bin/python -m tests.bench.scale"
UNITS: Mapping[str, tuple[str, str]] = {
    "first_answer": ("first answer", "s"),
    "edit": ("edit of a policy", "s"),
    "add": ("ADD", "s"),
    "worker_agent": ("worker at rest: agent", "%"),
    "worker_daemon": ("worker at rest: daemon", "%"),
    "egress_agent": ("egress node at rest: agent", "%"),
    "egress_daemon": ("egress node at rest: daemon", "%"),
    "worker_memory": ("worker: memory", "MiB"),
    "egress_memory": ("egress node: memory", "MiB"),
}
"""Words and unit of each measure, by its field."""


class Measured(msgspec.Struct, frozen=True):
    """One cluster. ``kind``: what differs from the smallest cluster."""

    kind: str
    size: int
    costs: Costs


def ratio(value: float, smallest: float) -> float:
    """Return by what factor a cost has grown; 1 if the smallest costs nothing."""
    return value / smallest if smallest else 1.0


def table(found: Sequence[Measured]) -> str:
    """Return one kind as Markdown: a line for each measure, a column for each size, ratios behind the values."""
    kind = found[0].kind
    lines = [
        f"| {kind} | " + " | ".join(f"{each.size:,}" for each in found) + " |",
        "|---|" + "---|" * len(found),
    ]
    for field, (message, unit) in UNITS.items():
        values = [float(getattr(each.costs, field)) for each in found]
        lines.append(f"| {message}, {unit} | " + " | ".join(_cells(values)) + " |")
    for name in found[0].costs.objects:
        counts = [each.costs.objects[name] for each in found]
        lines.append(f"| {name} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    return "\n".join(lines) + "\n"


def _cells(values: Sequence[float]) -> list[str]:
    first = values[0]
    return [f"{first:.2f}", *(f"{value:.2f} (×{ratio(value, first):.1f})" for value in values[1:])]


def run(kinds: Mapping[str, Sequence[int]], rest_s: float) -> list[Measured]:
    """Measure each size of each kind. The smallest cluster of a kind has one of everything else, and 10 nodes."""
    found = []
    for kind, sizes in kinds.items():
        for size in sizes:
            costs = measure(replace(Size(), **{kind: size}), rest_s)
            found.append(Measured(kind, size, costs))
            print(kind, size, costs, file=sys.stderr, flush=True)
    return found


def text(found: Sequence[Measured], command: str) -> str:
    """Return the part of a document: the command, the machine, a table for each kind."""
    kinds = dict.fromkeys(each.kind for each in found)
    tables = (table([each for each in found if each.kind == kind]) for kind in kinds)
    return "\n".join((f"`{command}`", "", report.machine(), "", *tables))


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="tests.bench.scale", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=sorted(SIZES), action="append", help="of these kinds")
    parser.add_argument("--sizes", help="in place of the default ones, as 10,1000; with one --only")
    parser.add_argument("--rest", type=float, default=REST_S, metavar="SECONDS", help="for the time at rest")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every value into it")
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the tables into it")
    options = parser.parse_args()
    if options.sizes and len(options.only or ()) != 1:
        parser.error("--sizes needs one --only")
    kinds = {kind: SIZES[kind] for kind in options.only or SIZES}
    if options.sizes:
        kinds = {options.only[0]: tuple(map(int, options.sizes.split(",")))}
    found = run(kinds, options.rest)
    message = text(found, " ".join((COMMAND, *sys.argv[1:])))
    print(message)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    if options.document:
        report.write_section(options.document, SECTION, message)
    return 0


if __name__ == "__main__":
    sys.exit(main())
