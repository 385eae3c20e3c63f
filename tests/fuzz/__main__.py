"""Run one target, or all: ``python -m tests.fuzz [TARGET …] [--seconds 60] [--seed N]``."""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
from collections.abc import Callable

from . import calls, channel, datagrams, engines, frames, manifests, netlink, stored, wire

Target = Callable[[random.Random], None]
TARGETS: dict[str, Target] = {
    "calls": calls.once, "channel": channel.once, "datagrams": datagrams.once, "engines": engines.once,
    "frames": frames.once, "manifests": manifests.once, "netlink": netlink.once, "stored": stored.once,
    "wire": wire.once,
}  # fmt: skip


def run(target: Target, seconds: float, seed: int) -> int:
    """Run ``target`` again and again for so long, and return how often. Raises what the target does.

    Each try has a seed of its own, ``seed`` and the ones that follow it: the one that failed is in the error's notes.
    """
    deadline, tries = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        try:
            target(random.Random(seed + tries))
        except BaseException as error:
            error.add_note(f"again: --seconds 0.01 --seed {seed + tries}")
            raise
        tries += 1
    return tries


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all if none is named"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args()
    if unknown := set(options.targets) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    for name in options.targets or TARGETS:
        print(f"{name}: seed {options.seed}", file=sys.stderr, flush=True)
        print(f"{name}: {run(TARGETS[name], options.seconds, options.seed)} tries")


if __name__ == "__main__":
    main()
