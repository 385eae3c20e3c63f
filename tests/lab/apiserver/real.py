"""``python -m tests.lab.apiserver.real kube-apiserver``: a real API server that tests may clear, until Ctrl-C.

It is etcd and ``kube-apiserver`` with nothing else of a cluster: no controllers, no scheduler, no nodes.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import trustme
import yaml

from ..free_port import free_port
from ..namespace import CommandFailed, run
from ..waiting import until
from .upstream import CONSENT, VARIABLE

HOST = "127.0.0.1"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tests.lab.apiserver.real",
        description=(__doc__ or "").partition("\n")[0],
        epilog="etcd, kubectl and openssl must be in the path.",
    )
    parser.add_argument("binary", type=Path, help="kube-apiserver; tried with 1.20")
    parser.add_argument(
        "--kubeconfig", type=Path, default=Path("build/real.kubeconfig"), help="where to write it"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory() as name,
        contextlib.ExitStack() as stack,
    ):
        directory = Path(name)
        log = stack.enter_context((directory / "log").open("wb"))
        etcd, peer, port = (free_port(HOST) for _ in range(3))
        for command in (_etcd(directory, etcd, peer), _apiserver(options.binary, directory, etcd, port)):
            process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        _write_kubeconfig(options.kubeconfig, directory, port)
        until(lambda: process.poll() is not None or _ready(options.kubeconfig), "it is ready", 60)
        if process.poll() is not None:
            sys.exit((directory / "log").read_text())
        with contextlib.suppress(CommandFailed):
            run(["kubectl", "--kubeconfig", str(options.kubeconfig), "create", "namespace", CONSENT])
        print(f"export {VARIABLE}={options.kubeconfig.resolve()}", flush=True)
        signal.pause()


def _etcd(directory: Path, port: int, peer: int) -> list[str]:
    url = f"http://{HOST}:{port}"
    return [
        "etcd",
        "--data-dir", str(directory / "etcd"),
        "--listen-client-urls", url,
        "--advertise-client-urls", url,
        "--listen-peer-urls", f"http://{HOST}:{peer}",
        "--initial-advertise-peer-urls", f"http://{HOST}:{peer}",
        "--initial-cluster", f"default=http://{HOST}:{peer}",
        "--unsafe-no-fsync",
    ]  # fmt: skip


def _apiserver(binary: Path, directory: Path, etcd: int, port: int) -> list[str]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.crt"))
    served = authority.issue_cert(HOST)
    served.private_key_pem.write_to_path(str(directory / "server.key"))
    served.cert_chain_pems[0].write_to_path(str(directory / "server.crt"))
    run(["openssl", "genrsa", "-out", str(directory / "accounts.key"), "2048"])
    (directory / "token").write_text(secrets.token_hex(16))
    (directory / "tokens.csv").write_text(f'{(directory / "token").read_text()},admin,1,"system:masters"\n')
    return [
        str(binary),
        f"--etcd-servers=http://{HOST}:{etcd}",
        f"--bind-address={HOST}",
        f"--secure-port={port}",
        f"--tls-cert-file={directory / 'server.crt'}",
        f"--tls-private-key-file={directory / 'server.key'}",
        f"--token-auth-file={directory / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={directory / 'accounts.key'}",
        f"--service-account-signing-key-file={directory / 'accounts.key'}",
        "--service-cluster-ip-range=10.96.0.0/16",
        # Nobody makes the service accounts that pods have.
        "--disable-admission-plugins=ServiceAccount",
    ]


def _write_kubeconfig(path: Path, directory: Path, port: int) -> None:
    cluster = {
        "server": f"https://{HOST}:{port}",
        "certificate-authority-data": _base64(directory / "ca.crt"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "real",
        "clusters": [{"name": "real", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": (directory / "token").read_text()}}],
        "contexts": [{"name": "real", "context": {"cluster": "real", "user": "admin"}}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))


def _ready(kubeconfig: Path) -> bool:
    with contextlib.suppress(CommandFailed):
        return run(["kubectl", "--kubeconfig", str(kubeconfig), "get", "--raw", "/readyz"]) == "ok"
    return False


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


if __name__ == "__main__":
    main()
