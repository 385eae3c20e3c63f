"""The reference pages name every option, key, field, command and metric that the programs have."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway_agent import config
from gateway_agent.cni_install import command_line
from gateway_agent.ctl.__main__ import main as egressctl

from .packaging.test_monitoring import exposed

REPOSITORY = Path(__file__).resolve().parents[2]
CRDS = REPOSITORY / "packaging" / "kubernetes" / "crds"
UNKNOWN = "zzqqxxjj"
"""A key that resembles none, so the hint lists all."""
SECTIONS = (
    "",
    "cluster",
    "tunnel",
    "lease",
    "health",
    "log",
    "metrics",
    "engines",
    "mark",
    "connectionLog",
    "store",
)
STORES = ("{kind: files, path: /m}", "{kind: kubernetes}")


def page(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text(encoding="utf-8")


def known_keys(section: str, store: str) -> set[str]:
    """Return the keys of a section of ``agent.yaml``, as the problem of an unknown key lists them."""
    document: dict[str, Any] = {"store": yaml.safe_load(store)}
    (document.setdefault(section, {}) if section else document)[UNKNOWN] = 1
    try:
        config.parse("agent.yaml", yaml.safe_dump(document), "node")
    except config.ConfigError as error:
        [hint] = [each.hint for each in error.problems if UNKNOWN in each.path]
        return set(hint.removeprefix("known: ").split(", "))
    raise AssertionError("an unknown key is no problem")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_the_configuration_has_its_line(section: str) -> None:
    text = page("configuration.md")
    for store in STORES:
        for key in known_keys(section, store):
            name = f"{section}.{key}" if section in SECTIONS[1:9] else key
            if key not in SECTIONS or section:
                assert re.search(rf"`{name}`|\b{key}: ", text), name


def options(shown: str) -> set[str]:
    """Return the long options in a help text, but those of every program."""
    return set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help", "--version"}


def test_every_option_of_the_agent_is_there() -> None:
    command = [sys.executable, "-m", "gateway_agent", "--help"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    text = page("configuration.md")
    assert {"--config", "--check"} <= options(shown)
    assert [each for each in options(shown) if f"| `{each}" not in text] == []


def test_every_option_of_the_installer_of_the_plugin_is_there() -> None:
    text = page("configuration.md")
    found = options(command_line.parser("").format_help())
    assert len(found) > 5
    assert [each for each in found if each not in text] == []


def test_every_command_of_egressctl_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        egressctl(["--help"])
    found = set(re.findall(r"^    ([a-z]+) ", capsys.readouterr().out, re.MULTILINE))
    assert {"status", "whois"} <= found
    assert [each for each in sorted(found) if f"`{each}" not in page("commands.md")] == []


def fields(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of all fields below a schema of a definition."""
    for name, inner in schema.get("properties", {}).items():
        yield name
        yield from fields(inner)
    if "items" in schema:
        yield from fields(schema["items"])


@pytest.mark.parametrize("kind", ["egressgateways", "egressgatewaypolicies"])
def test_every_field_of_our_objects_is_there(kind: str) -> None:
    [version, *_] = yaml.safe_load((CRDS / f"{kind}.yaml").read_text())["spec"]["versions"]
    found = set(fields(version["schema"]["openAPIV3Schema"]["properties"]["spec"]))
    selectors = {"matchLabels", "matchExpressions", "key", "operator", "values"}
    assert len(found) > 4
    assert [each for each in sorted(found - selectors) if each not in page("gateways.md")] == []


def test_every_metric_is_there() -> None:
    text = page("metrics.md")
    names = {name.removeprefix("egress_gateway_") for name in exposed() if not name.startswith("process_")}
    bases = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in names}
    assert len(bases) > 30
    assert [name for name in sorted(bases) if f"`{name}`" not in text] == []
