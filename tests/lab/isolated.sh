#!/usr/bin/env bash
# usage: tests/lab/isolated.sh COMMAND…   (root)
# Runs a command with processes, network, mounts and /run of its own: labs of two commands do not meet, and what
# the command leaves behind is killed when it ends.
set -euo pipefail
# Process 1 of the namespace is the shell, not the command: a shell reaps the orphans of a lab.
exec unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc bash -c '
  # Not only covered: a runtime that looks for the mount of /run/netns would find that of the machine first.
  while mountpoint --quiet /run/netns; do umount --recursive --lazy /run/netns; done
  mount -t tmpfs tmpfs /run
  mkdir -p /run/netns /run/lock
  ip link set lo up
  "$@"
  exit
' isolated "$@"
