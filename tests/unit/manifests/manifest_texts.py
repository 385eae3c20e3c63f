"""Manifests as texts, and the inventory that they are read as."""

from __future__ import annotations

import textwrap

from gateway_agent.manifests import parsing
from gateway_agent.manifests.model import (
    Inventory,
    Problem,
)

GATEWAY = """
apiVersion: egress-gateway.io/v1alpha1
kind: EgressGateway
metadata: {name: partner}
spec:
  nodeSelector: {node-role/egress: ""}
  sourceIP:
    mode: PrimaryIPFromEgressGatewayNodeInterface
    primaryIPFromEgressGatewayNodeInterface: {interfaceName: eth1}
"""
POLICY = """
apiVersion: egress-gateway.io/v1alpha1
kind: EgressGatewayPolicy
metadata: {name: backend-to-partner}
spec:
  egressGatewayName: partner
  selectors:
  - podSelector: {matchLabels: {app: backend}}
  destinationCIDRs: [203.0.113.0/24]
  excludedCIDRs: [203.0.113.7/32]
"""
VIRTUAL = """
apiVersion: egress-gateway.io/v1alpha1
kind: EgressGateway
metadata: {name: bank}
spec:
  nodeSelector: {matchExpressions: [{key: zone, operator: In, values: [b, a]}, {key: gpu, operator: DoesNotExist}]}
  sourceIP:
    mode: VirtualIPAddress
    virtualIPAddress: {ips: [172.16.0.50, 172.16.0.78], interfaces: [eth1], routingTableName: external}
  whenNoGateway: Direct
  failback: Automatic
  connectionSync: true
"""
NODE = """
apiVersion: v1
kind: Node
metadata: {name: g1, uid: anything, labels: {node-role/egress: ""}}
spec: {podCIDR: 10.1.0.0/24}
status:
  addresses:
  - {type: Hostname, address: g1.example}
  - {type: InternalIP, address: 172.16.0.7}
  - {type: InternalIP, address: "FD00::7"}
"""


def parse(*texts: str) -> Inventory:
    return parsing.parse((f"{index}.yaml", textwrap.dedent(text)) for index, text in enumerate(texts))


def only_problem(text: str) -> Problem:
    problems = parse(text).problems
    assert len(problems) == 1, problems
    return problems[0]
