"""``egress-gateway-cni``: puts the plugin on the node and into its CNI configuration, or takes both away again.

With ``--watch`` it stays, and puts back what another program has overwritten: a network plugin that is updated writes
its configuration anew, and pods that started without ours would not be selected.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import watchfiles

from .core import chaining
from .core.chaining import NotChainable
from .core.shown import printable

DONE, FAILED = 0, 1
PLUGIN = Path(sys.prefix) / "share" / chaining.TYPE
TOGETHER_MS, AGAIN_MS = 100, 1000
"""From a change to the look at it; until the next look where nothing tells of one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0 done, 1 it could not be done, 2 wrong call."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "remove":
            remove(options.bin_dir, options.conf_dir)
        elif options.watch:
            _watch(options)
        else:
            _say(install(options.plugin, options.bin_dir, options.conf_dir, _entry(options)))
    except (NotChainable, OSError, UnicodeDecodeError) as error:
        print(f"egress-gateway-cni: {printable(str(error))}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        pass
    return DONE


def install(plugin: Path, bin_dir: Path, conf_dir: Path, entry: dict[str, Any]) -> list[str]:
    """Says what it has changed: nothing where all stands. The plugin comes first: a runtime that reads the
    configuration must find it. Raises OSError and :class:`NotChainable`."""
    done = []
    target = bin_dir / chaining.TYPE
    content = plugin.read_bytes()
    if not (target.exists() and target.read_bytes() == content and os.access(target, os.X_OK)):
        _replace(target, content, 0o755)
        done.append(f"{target}: installed")
    name = chaining.in_use(os.listdir(conf_dir))
    if not name:
        return [*done, f"{conf_dir}: no network configuration yet; the plugin is chained when there is one"]
    if _rewrite(conf_dir / name, lambda text: chaining.chained(text, entry)):
        done.append(f"{conf_dir / name}: chained")
    return done


def remove(bin_dir: Path, conf_dir: Path) -> None:
    """The configuration first: what it names must be there. A file that cannot be read has no entry of ours that a
    runtime could follow. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(conf_dir)):
            path = conf_dir / name
            try:
                if name.endswith(chaining.LIST) and _rewrite(path, chaining.unchained):
                    _say([f"{path}: not chained any more"])
            except (NotChainable, UnicodeDecodeError) as error:
                _say([f"{path}: left as it is: {error}"])
    target = bin_dir / chaining.TYPE
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
        _say([f"{target}: removed"])


def _watch(options: argparse.Namespace) -> None:
    last: list[str] = []
    # The first process of a pid namespace hears no signal that it does not ask for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(DONE))
    changes = watchfiles.watch(
        options.conf_dir,
        options.bin_dir,
        debounce=TOGETHER_MS,
        rust_timeout=AGAIN_MS,
        yield_on_timeout=True,
        recursive=False,
    )
    while True:
        try:
            said = install(options.plugin, options.bin_dir, options.conf_dir, _entry(options))
        except (NotChainable, OSError, UnicodeDecodeError) as error:
            said = [str(error)]
        if said != last:
            _say(said)
        last = said
        next(changes)


def _entry(options: argparse.Namespace) -> dict[str, Any]:
    given = {"socket": options.socket, "failurePolicy": options.failure_policy}
    return {"type": chaining.TYPE, **{name: value for name, value in given.items() if value}}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _rewrite(path: Path, change: Callable[[str], str]) -> bool:
    """Whether there was something to change. What another program writes meanwhile is not overwritten."""
    while True:
        before = _read(path)
        after = change(before)
        if after == before:
            return False
        if _replace(path, after.encode(), path.stat().st_mode & 0o7777, before):
            return True


def _replace(path: Path, content: bytes, mode: int, before: str | None = None) -> bool:
    """All or nothing, also after a power cut; nothing where the file has become another one than ``before``.

    No runtime looks at a name without an ending of a configuration.
    """
    draft = path.with_name(f".{path.name}.draft")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    if before is not None and _read(path) != before:
        draft.unlink()
        return False
    os.replace(draft, path)
    return True


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(printable(line), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="egress-gateway-cni", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("install", "remove"))
    parser.add_argument("--watch", action="store_true", help="stay, and put back what others overwrite")
    parser.add_argument("--plugin", type=Path, default=PLUGIN, metavar="FILE", help=f"default {PLUGIN}")
    parser.add_argument("--bin-dir", type=Path, default=Path("/opt/cni/bin"), metavar="DIR", help="default %(default)s")
    parser.add_argument("--conf-dir", type=Path, default=Path("/etc/cni/net.d"), metavar="DIR",
                        help="default %(default)s")
    parser.add_argument("--socket", default="", metavar="PATH", help="of the agent, where it is not the usual one")
    parser.add_argument("--failure-policy", choices=("Fail", "Ignore"), help="of the plugin; its own default is Fail")
    return parser


if __name__ == "__main__":
    sys.exit(main())
