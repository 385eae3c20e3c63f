"""Every command that a page shows in a block is run by a test; every ``egressctl`` command is one that it knows."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_agent.adapters.files import cluster_key
from gateway_agent.ctl.__main__ import main

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
OUTPUT = {"README.md": ("▲", "10  The master's node dies")}
"""Blocks that show a picture or an output are known by a text in them."""
ANSWERED = "tests/unit/ctl/test_egressctl.py"
VOTERS = "kubectl -n egress-gateway patch configmap egress-gateway-voters --type=merge -p '{\"data\": null}'"
INSTALLED = "tests/e2e/test_install.py"
PROBED = "tests/e2e/test_pod_probes.py"
KUBECTL = "tests/unit/packaging/test_readme.py"
RUN_BY = {
    "./install.sh demo": "tests/e2e/test_demo.py::test_all_expectations_of_the_demo_hold",
    "./install.sh build --bundle": f"{INSTALLED}::bundle",
    "egress-gateway/install.sh install --config agent.yaml --store manifests --key cluster.key": f"{INSTALLED}::nodes",
    "tar -xzf egress-gateway-bundle.tar.gz": f"{INSTALLED}::nodes",
    "tar -xzf egress-gateway-bundle.tar.gz && egress-gateway/install.sh install":
        f"{INSTALLED}::test_an_upgrade_of_the_master_loses_no_packet",
    "/opt/egress-gateway/current/bin/python -I -m gateway_agent.node_install uninstall":
        f"{INSTALLED}::test_uninstalling_leaves_nothing_behind",
    "egressctl status": "tests/e2e/test_operator.py::test_status",
    "egressctl status --all": "tests/e2e/test_push.py::group",
    "egressctl status --all -o wide": f"{ANSWERED}::test_the_table_of_all_nodes",
    "egressctl doctor": "tests/e2e/test_ipv6_underlay.py::test_the_operator_sees_that_all_is_well",
    "egressctl pods": "tests/e2e/test_operator.py::test_pods",
    "egressctl explain POD 203.0.113.10": "tests/e2e/test_operator.py::test_explain",
    "egressctl diff ./manifests": "tests/e2e/test_diff.py::test_the_connections_that_it_counts_end_and_no_others",
    "egressctl push ./manifests": "tests/e2e/test_push.py::test_an_edit_of_one_node_is_in_force_on_all",
    "egressctl test": f"{PROBED}::test_each_node_gets_out_by_each_address_that_a_policy_uses",
    "egressctl test partner --to 203.0.113.10:443": f"{PROBED}::test_a_service_outside_answers",
    "egressctl test --all": f"{PROBED}::test_one_node_lets_all_test",
    "egressctl whois 172.16.0.50:40000": "tests/e2e/test_connection_log.py::test_whois_of_an_open_connection",
    "egressctl whois 172.16.0.50:40000 --to 203.0.113.10:443 --at 2026-11-29T10:00:00Z":
        "tests/e2e/test_connection_log.py::test_whois_of_a_pod_of_the_master",
    VOTERS: "tests/unit/packaging/test_readme.py::test_the_recorded_voters_are_forgotten",
    "podman info --format '{{.Host.NetworkBackend}}'":
        "tests/e2e/test_podman.py::test_podman_shows_the_backend_by_which_it_calls_plugins",
    "podman run --label app=backend IMAGE": "tests/e2e/test_podman.py::test_a_label_selects_a_container",
}  # fmt: skip
"""Tests, or their fixtures and helpers, by the commands that they run."""
RUN_HERE = {"(umask 077; openssl rand -hex 32 > cluster.key)"}
"""Commands that a test of this file runs."""
READ_FROM_THE_PAGE = {
    "Install": ("kubectl -n egress-gateway wait", "sed ", "kubectl apply", "openssl rand"),
    "Update": ("node=NODE", "kubectl ", "until kubectl"),
    "Uninstall": ("kubectl ",),
    "Keep pods off nodes that are not ready": ("kubectl taint ",),
}
"""Beginnings of commands by the sections of ``install-kubernetes.md`` from which :data:`KUBECTL` takes them."""
NOT_RUN = {
    "./install.sh test": "it is what runs the tests",
    "apt-get install --no-install-recommends nftables": "needs a mirror of Debian",
    "systemctl enable egress-gateway-guard": "no systemd in the labs of the guard",
    "registry=registry.example.com": "an assignment",
    "base=docker.io/library/debian:bookworm-slim": "an assignment",
    "kubectl delete -k packaging/kubernetes/node-readiness --ignore-not-found":
        "the API server of the tests has no admission policies",
    "podman pull $base": "needs a registry",
    "podman push $registry/egress-gateway:0.1.0": "needs a registry",
    "./install.sh build": "each run of the tests begins with it",
    "podman build -f packaging/Containerfile -t $registry/egress-gateway:0.1.0 --build-arg "
    "BASE=$base@$(podman image inspect --format '{{.Digest}}' $base) .": "needs a registry",
}  # fmt: skip
"""Commands that no test runs, with the reason."""


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each block of commands of a page, after the heading that it is under."""
    heading, opened, language, lines = "", False, "", list[str]()
    for line in path.read_text(encoding="utf-8").splitlines():
        fence = line.strip().startswith("```")
        if fence and opened:
            text = "\n".join(lines)
            if not language and not any(known in text for known in OUTPUT.get(path.name, ())):
                yield heading, text
        if fence:
            opened, language, lines = not opened, line.strip()[3:], []
        elif opened:
            lines.append(line.strip())
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()


def commands(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each command in the blocks of a page, without its comment, after its heading."""
    for heading, text in blocks(path):
        if not text.startswith("#"):  # A block that begins with a file's name shows the content of that file.
            for line in text.replace("\\\n", "").splitlines():
                yield heading, re.sub(r"\s+", " ", re.sub(r"\s+# .*$", "", line)).strip()


SHOWN = {(path.name, heading, command) for path in PAGES for heading, command in commands(path)}


def from_the_page(page: str, heading: str, command: str) -> bool:
    starts = READ_FROM_THE_PAGE.get(heading, ())
    return page == "install-kubernetes.md" and command.startswith(starts or "\n")


def functions_of(file: str) -> set[str]:
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_command_is_run_or_the_reason_is_given() -> None:
    assert len(SHOWN) > 40
    known = {*RUN_BY, *RUN_HERE, *NOT_RUN}
    missing = {c for page, heading, c in SHOWN if c not in known and not from_the_page(page, heading, c)}
    assert missing == set()
    assert known - {command for _, _, command in SHOWN} == set(), "no page shows these any more"


@pytest.mark.parametrize("command", RUN_BY)
def test_the_test_that_runs_it_is_there_and_names_its_options(command: str) -> None:
    file, _, name = RUN_BY[command].partition("::")
    assert name in functions_of(file)
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    parts = re.findall(r"(?<=egressctl )[a-z]+|--[a-z]+", "" if command == VOTERS else command)
    assert [part for part in parts if f'"{part}' not in text and f"--{{{part}" not in text] == []


def test_commands_of_the_installation_on_kubernetes_are_read_from_the_page() -> None:
    text = (REPOSITORY / KUBECTL).read_text(encoding="utf-8")
    for heading in READ_FROM_THE_PAGE:
        assert f'commands("{heading}")' in text or f'starting("{heading}"' in text


def egressctl_commands() -> set[str]:
    """Return all commands of ``egressctl`` on the pages: in blocks, and in the text if they are whole."""
    found = {command for _, _, command in SHOWN if command.startswith("egressctl ")}
    for path in PAGES:
        found |= set(re.findall(r"`(egressctl [a-z][^`]*)`", path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("command", sorted(egressctl_commands()))
def test_egressctl_knows_the_command_and_its_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``--help`` it parses options and does nothing; an unknown one before it is an error."""
    parts = re.sub(r"[][]|\bIP:PORT\b", " ", command).replace("…", "").split()
    sub = parts[1]
    options = [part for part in parts[2:] if part.startswith("-")]
    with pytest.raises(SystemExit) as ended:
        main([sub, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert [option for option in options if not re.search(rf"{option}\b", shown)] == []


def test_the_key_that_the_page_creates_is_a_key(tmp_path: Path) -> None:
    [command] = [command for _, _, command in SHOWN if command in RUN_HERE and "openssl" in command]
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert cluster_key.problems(tmp_path / "cluster.key") == ()
