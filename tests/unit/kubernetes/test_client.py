"""The client against a server that speaks the API: pages, watches, refusals, what rotates."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway_agent.kubernetes import client
from gateway_agent.kubernetes.client import Api, ApiError
from tests.lab.apiserver.local import LocalServer, serving

PODS = "/api/v1/pods"
Scenario = Callable[[Api, LocalServer], Awaitable[None]]


def run_scenario(directory: Path, scenario: Scenario, authority: trustme.CA | None = None) -> None:
    async def whole(server: LocalServer) -> None:
        api = Api(server.kubeconfig)
        try:
            async with asyncio.timeout(20):
                await scenario(api, server)
        finally:
            await api.close()

    with serving(directory, authority) as server:
        asyncio.run(whole(server))


def pod(server: LocalServer, name: str, node: str = "w1") -> None:
    server.cluster.run("prod", name, node, {})


def named(items: list[dict[str, Any]]) -> list[str]:
    return [item["metadata"]["name"] for item in items]


def test_a_list_comes_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE_SIZE", 2)

    async def scenario(api: Api, server: LocalServer) -> None:
        for name in "abcd":
            pod(server, name, "w2" if name == "b" else "w1")
        first = await api.page(PODS, "spec.nodeName=w1")
        pod(server, "later")
        second = await api.page(PODS, "spec.nodeName=w1", first.token)
        assert (named(first.items), named(second.items), second.token) == (["a", "c"], ["d"], "")
        assert first.version == second.version
        names = await api.page(PODS, names_only=True)
        assert [set(item) - {"apiVersion", "kind"} for item in names.items] == [{"metadata"}] * 5

    run_scenario(tmp_path, scenario)


def test_a_watch_yields_what_comes_after_its_version(tmp_path: Path) -> None:
    async def scenario(api: Api, server: LocalServer) -> None:
        pod(server, "before")
        page = await api.page(PODS, "spec.nodeName=w1")
        pod(server, "elsewhere", "w2")
        metadata = {"name": "unbound", "namespace": "prod"}
        server.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})
        pod(server, "here")
        pod(server, "unbound")
        server.cluster.remove("prod", "before")
        found = []
        async for kind, item in api.watch(PODS, "spec.nodeName=w1", page.version, 1):
            found.append((kind, item.get("metadata", {}).get("name")))
        assert found[0] == ("OPENED", None)
        # A real server tells first that the pod is to end.
        events = [event for event in found[1:] if event not in (("MODIFIED", "before"), ("BOOKMARK", None))]
        assert events == [("ADDED", "here"), ("ADDED", "unbound"), ("DELETED", "before")]

    run_scenario(tmp_path, scenario)


def test_refusals_say_why(tmp_path: Path) -> None:
    async def scenario(api: Api, server: LocalServer) -> None:
        assert await api.get("/api/v1/namespaces/prod/pods/none") is None
        server.cluster.strike(status=429, retry_after=3)
        with pytest.raises(ApiError, match="429: a fault") as raised:
            await api.page(PODS)
        assert (raised.value.status, raised.value.retry_after) == (429, 3.0)
        server.cluster.strike()
        pod(server, "first")
        server.cluster.compact()
        with pytest.raises(ApiError, match="410: too old") as raised:
            async for _ in api.watch(PODS, "", "1", 1):
                pass
        assert raised.value.status == 410
        server.stop()
        with pytest.raises(ApiError, match="no answer") as raised:
            await api.page(PODS)
        assert raised.value.status == 0

    run_scenario(tmp_path, scenario)


def test_a_token_that_has_rotated_is_read_anew(tmp_path: Path) -> None:
    async def scenario(api: Api, server: LocalServer) -> None:
        await api.page(PODS)
        server.allow("another")
        await api.page(PODS)

    run_scenario(tmp_path, scenario)


def test_a_kubeconfig_that_has_changed_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONFIG_POLL_INTERVAL_S", 0.0)

    async def scenario(api: Api, server: LocalServer) -> None:
        server.write_kubeconfig(token="wrong")
        with pytest.raises(ApiError, match="401"):
            await api.page(PODS)
        server.write_kubeconfig(token="secret")
        await api.page(PODS)

    run_scenario(tmp_path, scenario)


def test_only_the_authority_of_the_configuration_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONFIG_POLL_INTERVAL_S", 0.0)

    async def scenario(api: Api, server: LocalServer) -> None:
        await api.page(PODS)
        trustme.CA().cert_pem.write_to_path(str(server.directory / "ca.crt"))
        with pytest.raises(ApiError, match="certificate verify failed"):
            await api.page(PODS)

    run_scenario(tmp_path, scenario, trustme.CA())


@pytest.mark.parametrize(
    "text", ["", "[]", "a: [", "clusters: []\ncontexts: []", "current-context: x\nclusters: []\ncontexts: []"]
)
def test_a_configuration_that_is_none_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(ApiError, match="its configuration cannot be used"):
        asyncio.run(Api(tmp_path / "kubeconfig").page(PODS))
    with pytest.raises(ApiError, match="its configuration cannot be used"):
        asyncio.run(Api(None, tmp_path / "no account").page(PODS))


def test_an_account_of_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_: Api, server: LocalServer) -> None:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        (tmp_path / "namespace").write_text("egress-gateway")
        api = Api(None, tmp_path)
        try:
            assert (await api.page(PODS)).items == []
        finally:
            await api.close()

    run_scenario(tmp_path, scenario, trustme.CA())
