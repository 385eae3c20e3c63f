#!/usr/bin/env bash
# Brings bare Debian 12 machines to containers under podman that leave by the gateway, all machines at once:
#     install_nodes.sh NODE…
# Here are egress-gateway-bundle.tar.gz, agent.yaml, cluster.key and manifests, as docs/install-plain-nodes.md says.
# ssh enters each node as root. The exit status is 0 if each node is ready.
printf '%s\n' "$@" | xargs -I NODE -P 0 bash -euo pipefail -c '
scp -qr egress-gateway-bundle.tar.gz agent.yaml cluster.key manifests root@NODE:
ssh root@NODE bash -eu 2>&1 <<"END" | sed -u "s/^/NODE: /"
apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends nftables podman python3-venv >/dev/null
printf "[network]\nnetwork_backend = \"cni\"\n" >/etc/containers/containers.conf
echo net.ipv4.ip_forward=1 >/etc/sysctl.d/90-forward.conf && sysctl -qp /etc/sysctl.d/90-forward.conf
tar -xzf egress-gateway-bundle.tar.gz
egress-gateway/install.sh install --config agent.yaml --store manifests --key cluster.key
END
'
