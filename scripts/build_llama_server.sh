#!/usr/bin/env bash
# Builds llama-server from the sources that llama-cpp-python's own distribution carries, so that the engine tests can run
# against it without any other download. Prints the binary's path. About six minutes on two cores, once per version:
# the result is kept in ${XDG_CACHE_HOME:-~/.cache}/wakegate/llama-server/, outside the tree.
#
# usage: scripts/build_llama_server.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: scripts/build_llama_server.sh PYTHON}

version=$(sed -n 's/^llama[-_]cpp[-_]python==//p' constraints.txt)
[ -n "$version" ] || { echo "constraints.txt names no llama-cpp-python" >&2; exit 1; }
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wakegate/llama-server/$version
binary=$cache/llama-server
if [ -x "$binary" ]; then
  echo "$binary"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "building llama-server $version, about six minutes; log: $cache/build.log" >&2
mkdir -p "$cache"
{
  # --no-build-isolation: only the archive is wanted, so nothing is built to learn its metadata
  "$python" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation \
    --dest "$work" "llama-cpp-python==$version" || "$python" -m pip download --quiet --no-deps --no-binary :all: \
    --dest "$work" "llama-cpp-python==$version"
  tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
  source=$(echo "$work"/llama_cpp_python-*/vendor/llama.cpp)
  # LLAMA_USE_PREBUILT_UI: without it the build looks for a download. GGML_NATIVE: the binary may move to another CPU.
  cmake -S "$source" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_CURL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
  cmake --build "$work/build" --target llama-server
} >"$cache/build.log" 2>&1 || { tail -20 "$cache/build.log" >&2; exit 1; }
install -m 0755 "$work/build/bin/llama-server" "$binary.new"
mv "$binary.new" "$binary"
echo "$binary"
