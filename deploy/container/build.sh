#!/usr/bin/env bash
# What the Dockerfile's build stages run, as root, in /src.
#
#   build.sh llama cpu|cuda [ARCHITECTURES]   compiles llama-cpp-python into /wheels, or takes it from the cache mount
#   build.sh kept_as cpu|cuda [ARCHITECTURES] where in the cache mount that wheel is kept
#   build.sh install [llama]                  makes /opt/wakegate: what is shipped, all of it
#
# Versions come from constraints.txt, for what is shipped and for what builds it. Nothing but llama-cpp-python is
# compiled, so that the same file gives the same bytes.
set -euo pipefail

opt=/opt/wakegate
tools=/opt/tools # pip, and what builds; not shipped
wheels=/wheels
cache=/var/cache/wakegate # a cache mount: kept between builds, in no layer

step() { printf '[build] %s\n' "$*"; }

need() { # PACKAGE…
  # No versions: Debian's mirrors drop one as soon as it has been mended. The base image is what is pinned.
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
  rm -rf /var/lib/apt/lists/*
}

make_tools() {
  [[ ! -x $tools/bin/pip ]] || return 0
  python3 -c 'import ensurepip, venv' 2>/dev/null || need python3 python3-venv
  python3 -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 14) or sys.exit(f"[build] The base has Python {sys.version}: 3.11 to 3.14 is needed")'
  python3 -m venv "$tools"
  pip install pip
}

pip() { # [--python=…] COMMAND ARGUMENTS…
  "$tools/bin/python" -m pip --disable-pip-version-check --no-input --no-cache-dir -q "$@" -c constraints.txt
}

options() { # cpu|cuda [ARCHITECTURES]
  printf %s -DGGML_NATIVE=OFF # a build for this very CPU would die elsewhere with SIGILL
  if [[ $1 == cuda ]]; then
    # The driver's libcuda.so.1 comes with the machine that it will run on.
    printf %s " -DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=${2:?which}" " -DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined"
  fi
}

kept_as() { # cpu|cuda [ARCHITECTURES]: a folder for wheels of these options that this base can load
  # shellcheck source=/dev/null
  (. "${OS_RELEASE:-/etc/os-release}" && printf '%s-%s-' "$ID" "${VERSION_ID:-}")
  options "$@" | cksum | cut -d ' ' -f 1
}

llama() { # cpu|cuda [ARCHITECTURES]
  local version kept
  [[ $(<constraints.txt) =~ llama-cpp-python==([^[:space:]]+) ]]
  version=${BASH_REMATCH[1]}
  kept=$cache/$(kept_as "$@")
  mkdir -p "$wheels" "$kept"
  if compgen -G "$kept/llama_cpp_python-$version-*_$(uname -m).whl" >/dev/null; then
    step "llama-cpp-python $version for ${1^^} was compiled before"
  else
    make_tools
    need g++ cmake ninja-build
    step "Compiling llama-cpp-python $version for ${1^^} (once, some minutes): $(options "$@")"
    CMAKE_ARGS=$(options "$@") pip wheel --no-deps --no-binary llama-cpp-python --build-constraint constraints.txt \
      -w "$kept" "llama-cpp-python==$version"
  fi
  cp "$kept/llama_cpp_python-$version"-*"_$(uname -m).whl" "$wheels/"
}

install() { # [EXTRA]
  local extra=${1:-} site
  make_tools
  pip wheel --no-deps --build-constraint constraints.txt -w "$wheels" .

  python3 -m venv --without-pip "$opt"
  step "Installing into $opt"
  pip --python="$opt/bin/python" install --no-compile --only-binary :all: --find-links "$wheels" \
    "wakegate${extra:+[$extra]} @ file://$(echo "$wheels"/wakegate-*.whl)"
  site=$(echo "$opt"/lib/python3.*/site-packages)
  # By content, not by time: the same bytes in every build, and one look at the disk less per import.
  "$opt/bin/python" -m compileall -q --invalidation-mode unchecked-hash "$site"
  ln -s "${site#"$opt/"}/gateway/start.sh" "$opt/start.sh"
  ln -s "${site#"$opt/"}/health" "$opt/health"

  mkdir "$opt/share"
  cp deploy/container/{entrypoint.sh,healthcheck.py,make_sbom.py,runtime.sh} "$opt/share/"
  chmod 0755 "$opt"/share/*.sh
  chmod 0755 "$site/gateway/start.sh" # a wheel does not say
  if [[ $extra == llama ]]; then
    step "Making the demo model"
    pip install --only-binary :all: numpy gguf
    "$tools/bin/python" scripts/make_demo_model.py "$opt/share/demo.gguf"
  fi
}

"$@"
