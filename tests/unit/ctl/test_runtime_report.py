"""The configuration that a runtime has loaded, beside the files that it should have loaded."""

from __future__ import annotations

import json
from pathlib import Path

from gateway_agent.cni_install import drop_in
from gateway_agent.container_engines.cri import Loaded
from gateway_agent.ctl.runtime_report import examine, judge


def conflist(directory: Path, *types: str) -> Path:
    path = directory / "10-net.conflist"
    plugins = [{"type": kind} for kind in types]
    path.write_text(json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": plugins}))
    return path


def test_a_chain_with_our_plugin() -> None:
    said = judge(Loaded("net", ("bridge", "egress-gateway")))
    assert (said.judged, said.wrong) == (True, False)
    assert "net: bridge, egress-gateway" in said.found


def test_a_chain_without_it_that_the_files_do_not_have_either(tmp_path: Path) -> None:
    conflist(tmp_path, "bridge")
    said = judge(Loaded("net", ("bridge",), str(tmp_path)))
    assert said.wrong
    assert said.hint == "install the entry: egress-gateway-cni install"


def test_a_file_that_the_runtime_has_not_loaded(tmp_path: Path) -> None:
    file = conflist(tmp_path, "bridge", "egress-gateway")
    said = judge(Loaded("net", ("bridge",), str(tmp_path)))
    assert said.wrong
    assert said.hint.startswith(f"{file} has the entry, and the runtime has not loaded it")


def test_a_drop_in_that_the_runtime_does_not_load(tmp_path: Path) -> None:
    conflist(tmp_path, "bridge")
    drop_in.put(tmp_path, "net", {"type": "egress-gateway"})
    said = judge(Loaded("net", ("bridge",), str(tmp_path)))
    assert (said.wrong, said.hint) == (True, "install the entry: egress-gateway-cni install")
    lost = judge(Loaded(directory=str(tmp_path), error="no file"))
    assert lost.hint.startswith(str(tmp_path / "net" / drop_in.NAME))


def test_files_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "10-net.conflist").write_text("{")
    said = judge(Loaded(directory=str(tmp_path), error="invalid"))
    assert (said.wrong, str(tmp_path) in said.hint) == (True, True)


def test_nothing_loaded_yet_is_no_fault() -> None:
    assert not judge(Loaded(directory="/nowhere")).judged


def test_a_node_without_that_runtime(tmp_path: Path) -> None:
    assert examine(tmp_path / "none.sock") is None
