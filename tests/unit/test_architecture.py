"""The page on the architecture names the chains, files, folders and modules that the code has, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cni import contract
from cni.calls import attachments, fallback
from gateway_agent import guard_file
from gateway_agent.adapters.files import set_files
from gateway_agent.adapters.kernel import borrowed_settings
from gateway_agent.adapters.kernel.kernel_thread import texts
from gateway_agent.cni_install import plugin_report
from gateway_agent.connection_log import report
from gateway_agent.gateway_rules.pod_guard import guard_nft
from gateway_agent.kubernetes import last_known
from gateway_agent.lease import ipc
from gateway_agent.lease_daemon import run_directory

from .cni.datapath.test_guards import MASTER
from .cni.datapath.test_objects import plan

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
TABLE_OR_CHAIN = re.compile(
    r"^table (\S+) \S+ \{|\tchain (\S+) \{\n\t\ttype \S+ hook (\S+)(?: device \S+)? priority ([^;]+);",
    re.MULTILINE,
)
NUMBERS = {"raw": "raw (-300)"}
"""Priorities that the page shows with their number."""
FILES = {
    "agent.sock", "agent.lock", "drained", "last-good/", attachments.DIRECTORY + "/*.json", borrowed_settings.RECORD,
    contract.PLAN, contract.PLAN_OUTDATED, fallback.LOCK, guard_file.NAME, ipc.LOCK, ipc.LOG, ipc.SOCKET,
    last_known.LAST_KNOWN, str(plugin_report.NAME), report.REPORT, run_directory.VOTERS, set_files.LAST, set_files.NEXT,
    "conntrackd-sync.conf", ".lock", ".sock",
}  # fmt: skip
"""The files of an agent, with the names that the code has for them."""


def section(heading: str) -> str:
    return PAGE[PAGE.index(f"\n## {heading}") :].split("\n## ")[1]


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def rows(text: str) -> list[list[str]]:
    """Return the cells of each row of the tables in a text, without their headings."""
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    rules = [number for number, line in enumerate(lines) if set("".join(line)) <= set("- ")]
    headings = {number - 1 for number in rules} | set(rules)
    return [[cell.strip() for cell in line] for number, line in enumerate(lines) if number not in headings]


def base_chains() -> Iterator[tuple[str, str]]:
    """Yield name and place of each base chain that a worker or a master can have."""
    master = plan("g1", MASTER)
    of_nodes = replace(master, cluster_port=7947, sets_port=7947)
    for text in (*texts(of_nodes, ("eth1",)), *texts(plan("w1"), ()), guard_nft((), ())):
        family = ""
        for table, chain, hook, priority in TABLE_OR_CHAIN.findall(text):
            family = table or family
            if not chain:
                continue
            place = f"{NUMBERS.get(priority, priority)}"
            name = "fence" if family == "netdev" else chain
            where = {"bridge": "bridge ", "netdev": "netdev "}.get(family, "") + hook
            yield name, where if family == "netdev" else f"{where}, {place}"


def test_the_page_has_each_base_chain_with_its_hook_and_priority_and_no_other() -> None:
    text = section("One packet, out and back")
    lines = [re.split(r" {2,}", line.strip()) for line in text.split("```")[1].splitlines()]
    shown = {
        (cells[-1], cells[-2]) for cells in lines if len(cells) >= 3 and re.fullmatch(r"[a-z_]+", cells[-1])
    }
    for names, places, *_ in rows(text):
        shown |= set(zip(code(names), places.split("; "), strict=True))
    has_priority = {(name, place) for name, place in shown if name != "chain"}
    assert has_priority == set(base_chains())


def test_the_page_has_each_file_and_no_other() -> None:
    named = [
        name for row in rows(section("Processes, sockets, files")) for name in code(row[0].partition(":")[0])
    ]
    directories = {"runDir", "stateDir"}
    assert sorted(set(named) - directories) == sorted(FILES)


def test_the_page_has_each_package_and_no_other() -> None:
    packages = {
        str(path.parent.relative_to(REPOSITORY))
        for top in ("cni", "gateway_agent")
        for path in (REPOSITORY / top).rglob("__init__.py")
    } - {"gateway_agent"}
    shown = set()
    for folder, text in rows(section("Folders")):
        for name in code(folder):
            if name.endswith("/"):
                shown.add(name.rstrip("/"))
                shown |= {name + inner.rstrip("/") for inner in code(text) if inner.endswith("/")}
    assert shown == packages


@pytest.mark.parametrize("heading", ["Folders", "Extension points"])
def test_each_module_that_the_page_names_is_there(heading: str) -> None:
    for name in code(section(heading)):
        if name.endswith(".py"):
            places = [REPOSITORY / name, REPOSITORY / "gateway_agent" / name]
            assert any(path.is_file() for path in places), name
