# shellcheck shell=bash
# The part of install.sh for nodes: the bundle, the installation and its end.

readonly INSTALLED=/opt/egress-gateway
readonly WHEELS=wheels # only in an unpacked bundle
readonly BUNDLED_PYTHON=dist/egress-gateway-python.tar.gz
readonly BUNDLED_PYTHONS='3.11 3.12 3.13'

# All that a node without any network needs, in one file. Its wheels are those of each Python that nodes may have.
build_bundle() {
  local version platform platforms=()
  step 'Building the bundle' "$PLUGIN-bundle.tar.gz"
  rm -rf build/bundle-wheels build/lib # a wheel takes all that an earlier build has left
  for platform in manylinux_2_28 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux_2_5 manylinux1; do
    platforms+=(--platform "${platform}_$(uname -m)")
  done
  for version in $BUNDLED_PYTHONS; do
    pinned download --dest build/bundle-wheels --python-version "$version" --implementation cp "${platforms[@]}"
  done
  # Times in a wheel are those of its files unless this says otherwise.
  SOURCE_DATE_EPOCH=315532800 "$VENV/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps \
    --wheel-dir build/bundle-wheels .
  /usr/bin/python3 packaging/build_interpreter.py --output "$BUNDLED_PYTHON"
  "$VENV/bin/python" packaging/build_bundle.py --wheels build/bundle-wheels --output "$PLUGIN-bundle.tar.gz"
}

# Unpacks a bundle, and lets its own script go on.
install_bundle() {
  local bundle=$1 directory
  shift
  directory=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$directory'" EXIT
  (cd "$CALLER" && tar --extract --gzip --no-same-owner --file "$bundle" --directory "$directory")
  (cd "$directory/egress-gateway" && sha256sum --quiet --check SHA256SUMS) || fail "$bundle is damaged"
  (cd "$CALLER" && "$directory/egress-gateway/install.sh" install "$@")
}

# A name for what is in this directory: the same files are the same version.
version_name() {
  local files
  mapfile -t files < <(find cni gateway_agent packaging wheels dist -type f 2>/dev/null |
    grep -E '^(cni|gateway_agent|packaging)/.*\.(py|c|txt|service)$|^wheels/' | LC_ALL=C sort)
  cat "${files[@]}" pyproject.toml 2>/dev/null | sha256sum | cut -c 1-12
}

# Makes an environment of the interpreter in the bundle: interpreter and libraries are part of the version.
bundled_environment() {
  local target=$1 program
  mkdir -p "$target"
  tar --extract --gzip --no-same-owner --file "$BUNDLED_PYTHON" --directory "$target"
  program=$(find "$target/python/bin" -name 'python3.*')
  LC_ALL=C sed -i "s|/versions/@*/python/|/versions/${target##*/}/python/|" "$program"
  # Services cannot write there.
  "$program" -m compileall -q "$target/python/lib"
  "$program" -m venv --without-pip "$target"
}

# Prints the environment of this version; makes it if it is not there. Nothing else of the node changes.
stage_version() {
  local target interpreter wheels=()
  target=$INSTALLED/versions/$(version_name)
  # A new release of the system may have removed the Python that the environment is of.
  if [[ ! -f $target/complete ]] || ! "$target/bin/python" -c '' 2>/dev/null; then
    step 'Making the environment of this version' "$target" >&2
    interpreter=$(python)
    rm -rf "$target"
    local pip=("$target/bin/python" -m pip)
    if [[ -n $interpreter ]]; then
      "$interpreter" -m venv "$target"
    else
      step 'Taking the Python of the bundle' 'this node has none of 3.11 or later with venv' >&2
      bundled_environment "$target"
      pip=("$target/bin/python" "$target/python/pip.whl/pip")
    fi
    [[ ! -d wheels ]] || wheels=(--no-index --find-links "$WHEELS")
    pip+=(--quiet --disable-pip-version-check)
    "${pip[@]}" install --no-deps --only-binary :all: --require-hashes "${wheels[@]}" --requirement "$CONSTRAINTS"
    if [[ -d $WHEELS ]]; then
      "${pip[@]}" install --no-deps "${wheels[@]}" egress-gateway
    else
      "${pip[@]}" install --no-deps .
    fi
    mkdir -p "$target/share/systemd"
    cp packaging/systemd/*.service "$target/share/systemd/"
    if [[ -d $WHEELS ]]; then
      cp dist/egress-gateway dist/egress-gateway-standalone "$target/share/"
    else
      "$target/bin/python" packaging/build_zipapp.py --output "$target/share/egress-gateway"
    fi
    [[ -z $interpreter ]] || "${pip[@]}" uninstall --yes pip setuptools >/dev/null 2>&1
    touch "$target/complete"
  fi
  echo "$target"
}

# Removes a version that is not in use, and directories that are empty then.
discard() {
  if [[ ! "$INSTALLED/current" -ef "$1" ]]; then
    rm -rf "$1"
    rmdir "$INSTALLED/versions" "$INSTALLED" 2>/dev/null || true
  fi
}

install_node() {
  local staged index
  for ((index = 1; index <= $#; index++)); do
    if [[ ${!index} == --bundle ]]; then
      [[ $index -lt $# ]] || fail '--bundle needs a file'
      install_bundle "${@:index+1:1}" "${@:1:index-1}" "${@:index+2}"
      return
    fi
  done
  # shellcheck disable=SC2086
  install_packages $NODE_NEEDS
  trap 'discard "$INSTALLED/versions/$(version_name)"' EXIT
  staged=$(stage_version)
  (cd "$CALLER" && "$staged/bin/python" -I -m gateway_agent.node_install install "$@")
}

uninstall_node() {
  [[ -x $INSTALLED/current/bin/python ]] || fail "nothing is installed at $INSTALLED"
  "$INSTALLED/current/bin/python" -I -m gateway_agent.node_install uninstall
}
