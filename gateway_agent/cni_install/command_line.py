"""The command line of ``egress-gateway-cni``, and the files and the entry that it chooses."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cni.version import VERSION

from ..config import AgentConfig
from . import conflist_text
from .plugin_report import NAME as REPORT

SHARE = Path(sys.prefix) / "share"
FILES = {"shipped": f"{conflist_text.TYPE}-standalone", "node": conflist_text.TYPE}
"""Files of the plugin by the interpreter that runs them, as ``packaging`` builds them, in order of preference."""


def parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = argparse.ArgumentParser(prog="egress-gateway-cni", description=description)
    options.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    options.add_argument("command", choices=("install", "remove"))
    options.add_argument(
        "--watch", action="store_true", help="keep running, and restore what others overwrite"
    )
    options.add_argument(
        "--interpreter",
        choices=("auto", *FILES),
        default="auto",
        help="interpreter of the plugin: the one that is shipped in its own file, or the node's Python; "
        "auto: the first of them that was built",
    )
    options.add_argument(
        "--plugin", type=Path, metavar="FILE", help=f"default: the one of --interpreter in {SHARE}"
    )
    _add_places(options)
    options.add_argument(
        "--socket", default="", metavar="PATH", help="socket of the agent, if it is not the default one"
    )
    options.add_argument(
        "--failure-policy",
        choices=("Fail", "Ignore"),
        help="failurePolicy of the plugin; its default is Fail",
    )
    return options


def _add_places(options: argparse.ArgumentParser) -> None:
    """Add the options for directories and files of the node."""
    options.add_argument(
        "--bin-dir", type=Path, default=Path("/opt/cni/bin"), metavar="DIR", help="default %(default)s"
    )
    options.add_argument(
        "--conf-dir", type=Path, default=Path("/etc/cni/net.d"), metavar="DIR", help="default %(default)s"
    )
    options.add_argument(
        "--cri-socket",
        default=AgentConfig.containerd,
        metavar="PATH",
        help="socket of the container runtime, which is asked if it loads drop-in files; an empty text: the entry "
        "is always added to the network's own file; default %(default)s",
    )
    options.add_argument(
        "--network",
        default="",
        metavar="NAME",
        help="the runtime's default network, if it has one by its name (cni_default_network of CRI-O); default: the "
        "network of the first file",
    )
    options.add_argument(
        "--host-root",
        type=Path,
        metavar="DIR",
        help="in a container: the host's root directory, or a directory with the host's /usr; the node's Python "
        "is looked up there if the plugin needs it",
    )
    options.add_argument(
        "--report",
        type=Path,
        default=AgentConfig.run_dir / REPORT,
        metavar="FILE",
        help="file for the agent with the problems that keep the plugin from being used; default %(default)s",
    )


def plugin_file(options: argparse.Namespace) -> Path:
    """Return the file to install: the one given by an option, else the first existing one."""
    if options.plugin:
        return Path(options.plugin)
    named = FILES if options.interpreter == "auto" else (options.interpreter,)
    files = [SHARE / FILES[name] for name in named]
    return next((path for path in files if path.exists()), files[-1])


def entry(options: argparse.Namespace) -> dict[str, Any]:
    """Return the plugin's entry in the network configuration."""
    given = {"socket": options.socket, "failurePolicy": options.failure_policy}
    return {"type": conflist_text.TYPE, **{name: value for name, value in given.items() if value}}
