#!/usr/bin/env bash
# Sets this repository up on Debian and runs its parts. Says what it does; does only what is missing.
set -euo pipefail
shopt -s inherit_errexit
readonly CALLER=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
export PATH="$PATH:/usr/sbin:/sbin" # not in every root's path

readonly VENV=.venv
readonly PLUGIN=dist/egress-gateway
readonly CONSTRAINTS=packaging/constraints.txt
# command or file that must be there : Debian package that brings it
readonly NEEDS='
nft:nftables
conntrack:conntrack
ip:iproute2
iptables:iptables
ping:iputils-ping
arping:iputils-arping
conntrackd:conntrackd
tcpdump:tcpdump
faketime:faketime
strace:strace
keepalived:keepalived
iperf3:iperf3
shellcheck:shellcheck
pgrep:procps
/usr/lib/cni/bridge:containernetworking-plugins
/etc/ssl/certs/ca-certificates.crt:ca-certificates
'
# what a node needs
readonly NODE_NEEDS='
nft:nftables
'
# what only the interpreters are built of: the plugin's and the bundle's
readonly BUILD_NEEDS='
gcc:gcc
patchelf:patchelf
/usr/bin/python3-config:python3-dev
'
# what only the tests need: these start a service where there is systemd
readonly TESTS_NEED='
containerd:containerd
runc:runc
podman:podman
debootstrap:debootstrap
/usr/lib/podman/netavark:netavark
/bin/busybox:busybox-static
kubectl:kubernetes-client
stress-ng:stress-ng
systemd-analyze:systemd
promtool:prometheus
chromium:chromium
chromedriver:chromium-driver
'

usage() {
  cat <<'TEXT'
usage: ./install.sh COMMAND

  demo [--keep]     lays out a lab of network namespaces and shows the
                    basic egress gateway at work; --keep leaves it standing
  demo --clean      clears away a lab that was kept
  test [ARGUMENT…]  runs every test; arguments go to pytest
  build             builds the CNI plugin, dist/egress-gateway, the same with its own
                    interpreter, dist/egress-gateway-standalone, and the agent's
                    wheels for a container image, dist/wheels
  build --bundle    builds dist/egress-gateway-bundle.tar.gz, which installs on a
                    node without any network
  install [--config FILE] [--store DIR] [--key FILE] [--bundle FILE]
                    checks this node, then installs agent, lease daemon and plugin
                    on it as services, or replaces an earlier version; files that
                    are not given stay as they are
  uninstall         hands over and removes all of that, in files and kernel

Each command first installs what is missing: Debian packages and a Python
environment in .venv. install needs Python and two packages, and no .venv. All but
build need root.
TEXT
}

# shellcheck source=packaging/node.sh
source packaging/node.sh

bold='' dim='' red='' plain=''
if [[ -t 1 && -z "${NO_COLOR:-}" ]]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' plain=$'\e[0m'
fi

step() { printf '%s%s%s %s%s%s\n' "$bold" "$1" "$plain" "$dim" "${2:-}" "$plain"; }

fail() {
  printf '%sinstall.sh: %s%s\n' "$red" "$1" "$plain" >&2
  exit 1
}

need_root() {
  [[ $EUID -eq 0 ]] || fail "run $1 as root"
}

missing_packages() {
  local line what
  for line in "$@"; do
    what=${line%%:*}
    if [[ $what == /* ]]; then
      [[ -e $what ]] || echo "${line#*:}"
    else
      command -v "$what" >/dev/null || echo "${line#*:}"
    fi
  done
  # A bundle has a Python of its own.
  [[ -d wheels || -n "$(python)" ]] || python_packages
}

# The packages that bring a Python which is new enough: Ubuntu 22.04 and Red Hat 9 have one beside their own.
python_packages() {
  if command -v apt-get >/dev/null; then
    if /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info >= (3, 11))' 2>/dev/null; then
      printf '%s\n' python3.11 python3.11-venv
    else
      printf '%s\n' python3 python3-venv
    fi
  else
    echo python3.11
  fi
}

# The first Python that is new enough and can make environments, Debian's own before any other.
python() {
  local candidate
  for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if ! command -v apt-get >/dev/null; then
    command -v dnf >/dev/null || fail "missing, install them first: ${missing[*]}"
    fail "missing, install them first: dnf install ${missing[*]}"
  fi
  [[ ! -d wheels ]] || fail "missing, install them first: apt-get install ${missing[*]}"
  [[ $EUID -eq 0 ]] || fail "missing Debian packages, install them as root: ${missing[*]}"
  step 'Installing Debian packages' "${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || fail "apt-get update fails; install them first: apt-get install ${missing[*]}"
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    fail "apt-get cannot install: ${missing[*]}"
  [[ -n "$(python)" ]] || fail "no Python 3.11 or newer with venv, also not from ${missing[*]}"
}

make_environment() {
  local wanted interpreter
  wanted=$(sha256sum pyproject.toml "$CONSTRAINTS")
  if [[ -f $VENV/stamp && "$(<"$VENV/stamp")" == "$wanted" ]]; then
    return
  fi
  interpreter=$(python)
  [[ -n $interpreter ]] || fail 'no Python 3.11 or newer with venv'
  step 'Making the Python environment' "$VENV, $interpreter"
  [[ -x $VENV/bin/python ]] || "$interpreter" -m venv "$VENV"
  # What nodes get comes first, exactly as pinned: the plugin is built of it.
  pinned install
  "$VENV/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --editable '.[test]'
  printf '%s\n' "$wanted" >"$VENV/stamp"
}

# pip with what is installed on nodes: these versions, these hashes, wheels only.
pinned() {
  "$VENV/bin/python" -m pip "$@" --quiet --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --require-hashes --requirement "$CONSTRAINTS"
}

# Arguments: lines of what must be there.
prepare() {
  install_packages "$@"
  make_environment
}

build() {
  # Compiled once, whatever the environment says: the start of a lease daemon is part of a failover.
  "$VENV/bin/python" -m compileall -q cni gateway_agent
  step 'Building the plugin' "$PLUGIN"
  "$VENV/bin/python" packaging/build_zipapp.py --output "$PLUGIN"
}

# The plugin and its interpreter in one file: for nodes that have none.
build_standalone() {
  step 'Building the plugin with its own interpreter' "$PLUGIN-standalone"
  "$VENV/bin/python" packaging/build_standalone.py --output "$PLUGIN-standalone"
}

# What the container file takes: the agent and all that it needs, as wheels.
build_wheels() {
  step 'Building the wheels' dist/wheels
  rm -rf dist/wheels
  pinned download --dest dist/wheels
  "$VENV/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist/wheels .
}

run_tests() {
  local failed=0 unit fuzz bundle directory
  local limit=600 # seconds: a test that hangs fails, and the others go on
  if [[ $# -gt 0 ]]; then
    exec "$VENV/bin/python" -m pytest "$@"
  fi
  # What needs no kernel takes the processor time that the labs leave. Labs that compare times have the machine alone.
  mkdir -p build
  chrt --idle 0 "$VENV/bin/python" -m pytest tests/unit -n auto --dist worksteal --durations 10 --timeout "$limit" \
    >build/unit.log 2>&1 &
  unit=$!
  chrt --idle 0 "$VENV/bin/python" -m tests.fuzz --seconds "${FUZZ_SECONDS:-60}" >build/fuzz.log 2>&1 &
  fuzz=$!
  # A test of the second step installs it; if it is missing, that test builds it and shows why.
  (
    chrt --idle --pid 0 "$BASHPID"
    build_bundle
  ) >build/bundle.log 2>&1 &
  bundle=$!
  # What runs in the background receives no Ctrl-C.
  # shellcheck disable=SC2064
  trap "kill $unit $fuzz $bundle 2>/dev/null || true" EXIT
  # Short, since workers have directories of their own below it: the path of a socket has 107 characters.
  directory=$(mktemp --directory)
  "$VENV/bin/python" -m pytest tests/netns tests/e2e -m 'not timed' --durations 25 --timeout "$limit" \
    --basetemp "$directory" --dist loadfile --tx "2*popen//python=$PWD/tests/isolated_python" || failed=1
  rm -rf "$directory"
  wait "$bundle" || true
  "$VENV/bin/python" -m pytest tests/netns tests/e2e -m 'timed and not measured' --durations 25 --timeout "$limit" || failed=1
  wait "$unit" || failed=1
  wait "$fuzz" || failed=1
  trap - EXIT
  cat build/unit.log build/fuzz.log
  "$VENV/bin/python" -m pytest tests/netns tests/e2e -m measured --durations 25 --timeout "$limit" || failed=1
  return "$failed"
}

main() {
  local command=${1:-}
  [[ $# -eq 0 ]] || shift
  case $command in
    demo)
      need_root demo
      # shellcheck disable=SC2086
      prepare $NEEDS
      build
      exec "$VENV/bin/python" -m tests.lab.demo "$@"
      ;;
    test)
      need_root test
      # shellcheck disable=SC2086
      prepare $NEEDS $BUILD_NEEDS $TESTS_NEED
      build
      build_standalone
      # Tests run in namespaces without a network.
      tests/lab/cri/newer_containerd.sh build/containerd
      "$VENV/bin/python" -m compileall -q tests # each prober and service of a lab is a process
      run_tests "$@"
      ;;
    build)
      # shellcheck disable=SC2086
      prepare $NEEDS $BUILD_NEEDS
      build
      build_standalone
      if [[ ${1:-} == --bundle ]]; then
        build_bundle
      else
        build_wheels
      fi
      ;;
    install)
      need_root install
      install_node "$@"
      ;;
    uninstall)
      need_root uninstall
      uninstall_node
      ;;
    -h | --help | help)
      usage
      ;;
    '')
      usage >&2
      exit 2
      ;;
    *)
      usage >&2
      fail "no such command: $command"
      ;;
  esac
}

main "$@"
