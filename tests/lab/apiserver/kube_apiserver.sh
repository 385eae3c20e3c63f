#!/usr/bin/env bash
# Usage: kube_apiserver.sh DIRECTORY
#
# Makes DIRECTORY/kube-apiserver of Debian's source of Kubernetes (1.20, Debian 12), with Debian's Go. Needs root for
# the packages, 2 GB of disk, and some ten minutes on two processors.
set -euo pipefail

readonly DIRECTORY=${1:?usage: kube_apiserver.sh DIRECTORY}
readonly GO=1.19 REFLECT=github.com/modern-go/reflect2
readonly VALIDATION=vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go

mkdir -p "$DIRECTORY"
cd "$DIRECTORY"
apt-get update -q
apt-get install -y --no-install-recommends \
  "golang-$GO-go" golang-github-modern-go-reflect2-dev etcd-server dpkg-dev make rsync

# The source, without a change to the machine's own list of sources.
mkdir -p lists
printf 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s\n' \
  'http://deb.debian.org/debian bookworm main' > sources.list
apt=(apt-get -q -o "Dir::Etc::SourceList=$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o "Dir::State::Lists=$PWD/lists")
"${apt[@]}" update
"${apt[@]}" --download-only source kubernetes
rm -rf source
mkdir source
tar -xzf kubernetes_*.orig.tar.gz --strip-components 1 -C source
cd source

# Two parts of it are older than Go 1.18: one reads the insides of maps, the other takes an empty text for null.
rm "vendor/$REFLECT"/*
cp "/usr/share/gocode/src/$REFLECT"/*.go "/usr/share/gocode/src/$REFLECT"/*.s "vendor/$REFLECT/"
sed -i 's/if data == nil || reflect.DeepEqual(.*{$/if data == nil {/' "$VALIDATION"

printf '%s\n' "KUBE_GIT_COMMIT=''" KUBE_GIT_TREE_STATE=archive KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_MAJOR=1 \
  KUBE_GIT_MINOR=20 > version
PATH=/usr/lib/go-$GO/bin:$PATH GO111MODULE=off GOCACHE=$PWD/../cache KUBE_GIT_VERSION_FILE=$PWD/version \
  make WHAT=cmd/kube-apiserver
cp _output/local/bin/linux/*/kube-apiserver ..
