"""What the agent keeps of the pods of its node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cni.calls import attachments
from cni.calls.attachments import Attachment
from gateway_agent.adapters.kernel.kernel_thread import Kernel
from gateway_agent.agent.pods.records import Pods

OLD = Attachment(
    "c0", "eth0", "/run/netns/old", "cali1", "prod", "web-0", "old", {"app": "old"}, ("10.244.1.5",)
)


def test_the_next_pod_with_the_same_interface_takes_the_place_of_the_last(tmp_path: Path) -> None:
    pods = Pods(tmp_path, Kernel())
    new = replace(OLD, container_id="c1", uid="new", labels={"app": "new"})
    other = replace(OLD, container_id="c2", host_interface="cali2")
    unknown = replace(OLD, container_id="c3", host_interface="")
    for record in (OLD, other, unknown, new):
        pods.register(record)
    pods.displace(new)
    assert set(pods.records) == {("c1", "eth0"), ("c2", "eth0"), ("c3", "eth0")}
    pods.displace(unknown)
    assert {record.container_id for record in attachments.load_all(tmp_path)[0]} == {"c1", "c2", "c3"}
