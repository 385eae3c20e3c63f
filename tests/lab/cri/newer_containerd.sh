#!/usr/bin/env bash
# Usage: newer_containerd.sh DIRECTORY
#
# Makes DIRECTORY/bin with Debian sid's containerd, and its shim. Nothing is installed, and the machine's own lists
# of sources stay as they are. Does nothing if they are there already.
set -euo pipefail

readonly DIRECTORY=${1:?usage: newer_containerd.sh DIRECTORY}
readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

[[ -e $DIRECTORY/bin/containerd ]] && exit
mkdir -p "$DIRECTORY"/{lists,packages,root}
cd "$DIRECTORY"
printf 'deb [signed-by=%s] http://deb.debian.org/debian sid main\n' "$KEYRING" >sources.list
apt=(apt-get -qq -o "Dir::Etc::SourceList=$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o "Dir::State::Lists=$PWD/lists" -o APT::Sandbox::User=root)
"${apt[@]}" update
(cd packages && "${apt[@]}" download containerd)
for package in packages/*.deb; do
  dpkg-deb --extract "$package" root
done
mkdir -p draft
cp root/usr/bin/containerd root/usr/bin/containerd-shim-runc-v2 draft/
mv draft bin
