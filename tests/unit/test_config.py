"""agent.yaml to AgentConfig."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gateway_agent import config
from gateway_agent.config import (
    AgentConfig,
    ConfigError,
    ConnectionLogConfig,
    FilesStoreConfig,
    KubernetesStoreConfig,
    load,
    parse,
)

WHOLE = """
nodeName: worker-1
runDir: /run/egw
store: {kind: files, path: /etc/manifests}
clusterCIDRs: [10.244.0.0/16, "FD00::/48"]
cluster: {keyFile: /etc/cluster.key, port: 7000}
lease: {heartbeat: 20ms, duration: 0.1s}
quorum: AvailabilityFirst
tunnel: {port: 4800, mtu: 1400}
mark: {mask: "0x00ff0000"}
health: {upstream: [172.16.0.1, "2001:db8::1"], interval: 1m, misses: 5}
metrics: {listen: "[::1]:9000", names: [Node.Example.com]}
log: {level: debug, format: json}
engines: {podman: /srv/containers, containerd: ""}
guard: On
guardExcept: [docker0, "vm-*"]
stateDir: /srv/egw
connectionLog: {file: /var/log/c.log, maxSize: 5MB, keep: 0}
"""
STORE = "store: {kind: files}\n"


def problems(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as raised:
        parse("agent.yaml", text, "host")
    assert all(problem.source == "agent.yaml" for problem in raised.value.problems)
    return [(problem.path, problem.message) for problem in raised.value.problems]


def test_every_key() -> None:
    assert parse("agent.yaml", WHOLE, "host") == AgentConfig(
        node_name="worker-1",
        store=FilesStoreConfig(Path("/etc/manifests")),
        run_dir=Path("/run/egw"),
        cluster_cidrs=("10.244.0.0/16", "fd00::/48"),
        key_file=Path("/etc/cluster.key"),
        cluster_port=7000,
        heartbeat_ns=20_000_000,
        duration_ns=100_000_000,
        quorum="AvailabilityFirst",
        tunnel_port=4800,
        tunnel_mtu=1400,
        mark_mask=0x00FF0000,
        upstream=("172.16.0.1", "2001:db8::1"),
        health_interval=60.0,
        health_misses=5,
        metrics_listen=("::1", 9000),
        metrics_names=("node.example.com",),
        log_level="debug",
        log_format="json",
        podman=Path("/srv/containers"),
        containerd=None,
        guard=True,
        guard_except=("docker0", "vm-*"),
        state_dir=Path("/srv/egw"),
        connection_log=ConnectionLogConfig(Path("/var/log/c.log"), 5_000_000, 0),
    )
    assert set(yaml.safe_load(WHOLE)) == set(config.KEYS)


def test_manifests_are_exchanged_with_the_files_store_unless_it_is_off() -> None:
    assert parse("agent.yaml", STORE + "cluster: {port: 7000}\n", "host").sets_port == 7000
    assert parse("agent.yaml", "store: {kind: files, push: Off}\n", "host").sets_port == 0
    assert parse("agent.yaml", "store: {kind: kubernetes}\n", "host").sets_port == 7947


@pytest.mark.parametrize(("given", "on"), [("On", True), ("Off", False), ('"On"', True), ('"Off"', False)])
def test_the_guard_is_switched(given: str, on: bool) -> None:
    assert parse("agent.yaml", f"{STORE}guard: {given}\n", "host").guard is on
    assert parse("agent.yaml", f"store: {{kind: kubernetes}}\nguard: {given}\n", "host").guard is on


def test_the_guard_is_on_where_the_api_knows_each_pod() -> None:
    assert parse("agent.yaml", "store: {kind: kubernetes}\n", "host").guard


def test_defaults() -> None:
    assert parse("agent.yaml", STORE, "host") == AgentConfig("host", FilesStoreConfig())
    assert parse("agent.yaml", STORE + "tunnel: {mtu: auto}\nlog:\n", "host").tunnel_mtu is None
    assert parse("agent.yaml", STORE + "mark: {mask: 0x0ff00000}", "host").mark_mask == 0x0FF00000


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("connectionLog: On", "connectionLog", "must be a mapping, not a boolean"),
        ("connectionLog: {maxSize: 100}", "connectionLog.maxSize", "100 is no size from 100kB to 1000GB"),
        ("connectionLog: {maxSize: 99kB}", "connectionLog.maxSize", "'99kB' is no size from 100kB to 1000GB"),
        ("connectionLog: {file: log}", "connectionLog.file", "'log' is no absolute path"),
        ("nodename: x", "nodename", "unknown field"),
        ("cluster: {keyfile: /x}", "cluster.keyfile", "unknown field"),
        ("log: {levels: info}", "log.levels", "unknown field"),
        ("nodeName: Worker_1", "nodeName", "'Worker_1' is no DNS name"),
        (f"nodeName: {'a' * 254}", "nodeName", f"'{'a' * 254}' is no DNS name"),
        ("runDir: run", "runDir", "'run' is no absolute path"),
        (f"runDir: /{'a' * 90}", "runDir", "has more than 90 bytes"),
        ("clusterCIDRs: [10.244.1.0/16]", "clusterCIDRs[0]", "'10.244.1.0/16' has host bits set"),
        ("clusterCIDRs: 10.244.0.0/16", "clusterCIDRs", "must be a list, not a text"),
        ("cluster: {port: 65536}", "cluster.port", "must be a whole number from 1 to 65535"),
        ("cluster: {port: '7947'}", "cluster.port", "must be a whole number from 1 to 65535"),
        ("cluster: {port: true}", "cluster.port", "must be a whole number from 1 to 65535"),
        ("cluster: [1]", "cluster", "must be a mapping, not a list"),
        ("cluster: {port: 4799}", "tunnel.port", "4799 is cluster.port too"),
        ("lease: {heartbeat: 100ms}", "lease.duration", "is less than three heartbeats"),
        ("lease: {heartbeat: 50}", "lease.heartbeat", "50 is no duration from 1ms to 60m"),
        ("lease: {heartbeat: 0ms}", "lease.heartbeat", "'0ms' is no duration from 1ms to 60m"),
        ("lease: {duration: 2h}", "lease.duration", "'2h' is no duration from 1ms to 60m"),
        ("lease: {duration: -1s}", "lease.duration", "'-1s' is no duration from 1ms to 60m"),
        ("guard: on_", "guard", "'on_' is not known"),
        ("guardExcept: ['a*b']", "guardExcept[0]", "'a*b' is no name of an interface"),
        ("stateDir: state", "stateDir", "'state' is no absolute path"),
        ("quorum: strict", "quorum", "'strict' is not known"),
        ("tunnel: {mtu: 100}", "tunnel.mtu", "100 is neither auto nor a number of bytes from 576 to 65485"),
        ("mark: {mask: '0x0f0f'}", "mark.mask", "mark mask 0xf0f: need 4 or more adjacent bits of 32"),
        (
            "mark: {mask: '0x1ff000000'}",
            "mark.mask",
            "mark mask 0x1ff000000: need 4 or more adjacent bits of 32",
        ),
        ("mark: {mask: all}", "mark.mask", "invalid literal for int() with base 0: 'all'"),
        ("mark: {mask: true}", "mark.mask", "must be a number, not a boolean"),
        ("health: {upstream: [gateway]}", "health.upstream[0]", "'gateway' is not an IP address"),
        ("health: {misses: 0}", "health.misses", "must be a whole number from 1 to 1000"),
        ("metrics: {names: [a, 'b:80']}", "metrics.names[1]", "'b:80' is no DNS name"),
        ("engines: {podman: storage}", "engines.podman", "'storage' is no absolute path"),
        ("engines: {podman: off}", "engines.podman", "must be a text, not a boolean"),
        ("engines: {docker: /x}", "engines.docker", "unknown field"),
        ("metrics: {listen: 9479}", "metrics.listen", "must be a text, not a number"),
        ("metrics: {listen: '::1:9479'}", "metrics.listen", "'::1:9479' is no address and port"),
        (
            "metrics: {listen: '127.0.0.1:99999'}",
            "metrics.listen",
            "'127.0.0.1:99999' is no address and port",
        ),
        ("metrics: {listen: '127.0.0.300:99'}", "metrics.listen", "'127.0.0.300:99' is no address and port"),
        ("log: {level: loud}", "log.level", "'loud' is not known"),
    ],
)
def test_wrong_values(text: str, path: str, message: str) -> None:
    assert problems(STORE + text) == [(path, message)]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("", "", "is empty"),
        ("[]", "", "is a list instead of a mapping"),
        ("a: [", "", "not YAML: line 2, column 1: did not find"),
        ("nodeName: x", "store", "is required"),
        ("store: {path: /x}", "store.kind", "is required"),
        ("store: {kind: files, paths: /x}", "store.paths", "unknown field"),
        ("store: {kind: kubernetes, path: /x}", "store.path", "unknown field"),
        ("store: {kind: kubernetes, kubeconfig: x}", "store.kubeconfig", "'x' is no absolute path"),
        ("store: {kind: kubernetes, namespace: a.b}", "store.namespace", "'a.b' is no name of a namespace"),
        ("store: {kind: kubernetes, notReadyTaint: x}", "store.notReadyTaint", "'x' is not known"),
        ("store: {kind: kubernetes, apiGroup: example.com}", "store.apiGroup", "'example.com' is not known"),
        (STORE + "store: {kind: files}", "", "not YAML: line 2, column 1: the key 'store' is given twice"),
        (f"---\n{STORE}---\n{STORE}", "", "holds several documents; one is read"),
    ],
)
def test_wrong_files(text: str, path: str, message: str) -> None:
    found = problems(text)
    assert found[0][0] == path
    assert found[0][1].startswith(message)


def test_a_cluster_as_the_store() -> None:
    assert parse("agent.yaml", "store: {kind: kubernetes}", "host").store == KubernetesStoreConfig()
    whole = "store: {kind: kubernetes, kubeconfig: /k, namespace: egress, apiGroup: network.deckhouse.io}"
    wanted = KubernetesStoreConfig(Path("/k"), "egress", "network.deckhouse.io")
    assert parse("agent.yaml", whole, "host").store == wanted


def test_all_problems_at_once_with_hints() -> None:
    text = "stroe: {}\nlease: {heartbeat: 1}\nlog: {level: debgu}\n"
    with pytest.raises(ConfigError) as raised:
        parse("agent.yaml", text, "host")
    assert [(p.path, p.hint) for p in raised.value.problems] == [
        ("store", "store: {kind: files, path: /etc/egress-gateway/manifests}"),
        ("lease.heartbeat", "as 50ms or 0.25s"),
        ("log.level", "did you mean 'debug'?"),
        ("stroe", "did you mean 'store'?"),
    ]
    assert str(raised.value).count("\n") == 3


def test_load(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(file)
    file.write_bytes(b"nodeName: \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(file)
    file.write_text(WHOLE)
    assert load(file).node_name == "worker-1"


def test_the_connection_log_goes_to_a_file_or_to_the_journal() -> None:
    def parsed(text: str) -> ConnectionLogConfig:
        found = parse("agent.yaml", STORE + f"connectionLog: {text}\n", "host").connection_log
        assert found is not None
        return found

    assert (parsed("{}").journal, parsed("{target: file, keep: 3}").keep) == (False, 3)
    assert parsed("{target: journal}").journal
    for wrong in ("{target: syslog}", "{target: journal, file: /var/log/x}"):
        with pytest.raises(ConfigError):
            parsed(wrong)
