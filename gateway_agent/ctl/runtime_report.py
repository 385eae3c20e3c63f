"""Compare the CNI configuration that the container runtime has loaded with the files on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..cni_install import conf_dir, conflist_text, drop_in, entry_place
from ..cni_install.conflist_text import NotChainable
from ..container_engines import cri
from ..container_engines.cri import Loaded


@dataclass(frozen=True)
class Said:
    """The result of the comparison."""

    found: str
    judged: bool = True
    """False if the runtime does not report what it has loaded."""
    wrong: bool = False
    hint: str = ""


def examine(socket: Path) -> Said | None:
    """Return the result for the runtime at this CRI socket; None if there is no such socket."""
    if not socket.is_socket():
        return None
    try:
        loaded = cri.loaded(socket)
    except (OSError, ValueError) as error:
        return Said(f"not asked at {socket}: {error}", judged=False, hint="it may have no CRI, or not run")
    if loaded is None:
        return Said(f"{socket}: it does not report which CNI configuration it has loaded", judged=False)
    return judge(loaded)


def judge(loaded: Loaded) -> Said:
    """Return the result for this loaded configuration."""
    file = chained_file(Path(loaded.directory)) if loaded.directory else ""
    again = f"{file} has the entry, and the runtime has not loaded it: systemctl restart containerd"
    if loaded.error:
        hint = again if file else f"repair the files in {loaded.directory}"
        return Said(f"no pod starts: {loaded.error}", wrong=True, hint=hint)
    if not loaded.name:
        return Said("it has loaded no CNI configuration yet", judged=False)
    chain = f"network {loaded.name}: {', '.join(loaded.plugins)}"
    if conflist_text.TYPE in loaded.plugins:
        return Said(f"it has loaded {chain}")
    # An older runtime loads no drop-in file, even after a restart.
    loadable = file and Path(file).name != drop_in.NAME
    hint = again if loadable else "install the entry: egress-gateway-cni install"
    return Said(f"pods start without {conflist_text.TYPE}, by {chain}", wrong=True, hint=hint)


def chained_file(directory: Path) -> str:
    """Return the file that the runtime should have loaded, if it has our entry; else an empty text. Raises OSError."""
    files, unreadable = conf_dir.configurations(directory)
    try:
        name = conflist_text.in_use(files, unreadable).name
        if not name:
            return ""
        without, network = conflist_text.unchained(files[name]), entry_place.network(files[name])
    except NotChainable:
        return ""
    if without != files[name]:
        return str(directory / name)
    ours = drop_in.path(directory, network)
    return str(ours) if network and ours.exists() else ""
