#!/usr/bin/env bash
# Builds the container images for real, without a Docker engine or a registry, for `make image-test`. As root.
#
# buildah builds, on a Debian that debootstrap makes in place of python:…-slim (no registry is asked). The target `cpu` is
# all real. `vllm` and `cuda-llamacpp` are built on the same base, the latter with the wheel for the CPU in place of the
# one that needs nvcc: every step of theirs is run, their engines are not in there.
#
# usage: scripts/build_image.sh PYTHON
#
# Everything is kept in ${XDG_CACHE_HOME:-~/.cache}/wakegate/image-test, which is printed at the end: the base (a minute,
# once), the compiled wheel (some minutes, once per version; a wheel of start.sh's is taken where it fits), the images.
# Secrets are planted in all places where a build could pick one up; tests/deploy/test_image.py looks for them.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: scripts/build_image.sh PYTHON}
base=localhost/wakegate-base:bookworm

say() { printf '[image] %s\n' "$*"; }

give_up() {
  say "$1" >&2
  exit 2
}

((EUID == 0)) || give_up "Images are built and run as root here: sudo make image-test"

packages=()
for tool in buildah podman runc debootstrap git; do
  hash "$tool" 2>/dev/null || packages+=("$tool")
done
if ((${#packages[@]})); then
  hash apt-get 2>/dev/null || give_up "Install ${packages[*]}, then run this again"
  say "Installing ${packages[*]}"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"; } \
    >/tmp/wakegate-image-packages.log 2>&1 || give_up "Cannot install ${packages[*]}: see /tmp/wakegate-image-packages.log"
  rm -f /tmp/wakegate-image-packages.log
fi

place=${XDG_CACHE_HOME:-$HOME/.cache}/wakegate/image-test
mkdir -p "$place/tmp"
exec {lock}<"$place"
flock -n "$lock" || { say "Another build is at work in $place: waiting"; flock "$lock"; }

# A storage and a configuration of their own: what is on this machine already is neither used nor touched.
export CONTAINERS_STORAGE_CONF=$place/storage.conf CONTAINERS_CONF=$place/containers.conf TMPDIR=$place/tmp
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "/run/wakegate-image-test"\n' "$place/storage" \
  >"$CONTAINERS_STORAGE_CONF"
# runc and cgroupfs: what works also where systemd is not process 1. The limits: podman's own are above some machines'.
cat >"$CONTAINERS_CONF" <<'EOF'
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
EOF

# --- The base ---------------------------------------------------------------------------------------------------------------

mirror=http://deb.debian.org/debian
sources=/etc/apt/sources.list.d/debian.sources
if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
  say "Making a Debian to build on (once, a minute)"
  if [[ -r $sources ]] && grep -q '^Suites: *bookworm' "$sources"; then
    mirror=$(sed -n 's/^URIs: *\([^ ]*\/debian\)$/\1/p' "$sources" | head -n 1)
  fi
  rm -rf "$place/base"
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$place/base" "$mirror" \
    >"$place/debootstrap.log" 2>&1 || give_up "debootstrap could not use $mirror: see $place/debootstrap.log"
  # Where a company's proxy looks into TLS, its authority is in the host's bundle.
  cp /etc/ssl/certs/ca-certificates.crt "$place/base/etc/ssl/certs/"
  cp "$place/base/etc/os-release" "$place/os-release"
  tar -C "$place/base" -c . | podman import -q - "$base" >/dev/null
  rm -rf "$place/base"
fi

# --- What is built from: the working tree as it is, and secrets where a careless build would find them ----------------------

context=$place/context
rm -rf "$context"
mkdir "$context"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
  [[ ! -e $file ]] || printf '%s\0' "$file"
done | tar -c --null -T - | tar -x -C "$context"
planted() { printf 'planted-secret-%s' "$1"; } # tests/deploy/test_image.py looks for the first two words
mkdir -p "$context/data/keys" "$context/.git" "$context/gateway/__pycache__" "$context/health/__pycache__"
planted key >"$context/data/keys/first-key.txt"
planted git >"$context/.git/config"
planted code >"$context/gateway/__pycache__/cli.cpython-311.pyc"
printf 'API_KEY=%s\n' "$(planted dotenv)" | tee "$context/.env" "$context/gateway/.env" >"$context/health/.env"
{
  printf '# %s\n[global]\n' "$(planted registry)"
  [[ -z ${PIP_INDEX_URL:-} ]] || printf 'index-url = %s\n' "$PIP_INDEX_URL"
} >"$place/pip.conf"

# --- Wheels that are there already ---------------------------------------------------------------------------------------------

build() { # TARGET ARGUMENT…
  local target=$1 began=$SECONDS
  shift
  say "Building $target"
  API_KEY=$(planted environment) buildah bud --isolation chroot --format docker --layers=false --target "$target" \
    --secret "id=pip.conf,src=$place/pip.conf" --build-arg "HF_TOKEN=$(planted argument)" \
    --build-arg VERSION=1.2.3 --build-arg REVISION=0123abc --build-arg SOURCE=https://example.org/wakegate \
    "$@" -t "localhost/wakegate:$target" "$context" >"$place/$target.log" 2>&1 ||
    { tail -n 30 "$place/$target.log" >&2; give_up "Building $target failed: see $place/$target.log"; }
  say "Built $target in $((SECONDS - began)) s"
}

keep() { # WHAT FOLDER: into the cache mount of the build, under the name that build.sh looks for
  local name
  name=$(OS_RELEASE=$place/os-release deploy/container/build.sh kept_as "${@:2}")
  mkdir -p "$place/seed/$name"
  cp "$1" "$place/seed/$name/"
}

seed() {
  printf 'FROM %s\nRUN --mount=type=cache,id=wakegate-wheels,target=/kept cp -rn /seed/. /kept/\n' "$base" |
    buildah bud --isolation chroot --layers=false -v "$place/seed:/seed:ro" -f - >"$place/seed.log" 2>&1 ||
    { tail -n 5 "$place/seed.log" >&2; give_up "The cache mount cannot be filled: see $place/seed.log"; }
}

version=$(sed -n 's/^llama-cpp-python==//p' constraints.txt)
rm -rf "$place/seed"
mkdir "$place/seed"
wheel=("${WAKEGATE_WHEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wakegate/wheels}/llama_cpp_python-$version"-*"_$(uname -m).whl")
same_system() { cmp -s <(grep -E '^(ID|VERSION_ID)=' /etc/os-release | sort) <(grep -E '^(ID|VERSION_ID)=' "$place/os-release" | sort); }
if [[ -e ${wheel[0]} ]] && same_system; then
  keep "${wheel[0]}" cpu
  seed
fi
build cpu --build-arg "PYTHON_IMAGE=$base"

rm -rf "$place/wheel"
mkdir "$place/wheel"
printf 'FROM %s\nRUN --mount=type=cache,id=wakegate-wheels,target=/kept cp /kept/%s/*.whl /wheel/\n' \
  "$base" "$(OS_RELEASE=$place/os-release deploy/container/build.sh kept_as cpu)" |
  buildah bud --isolation chroot --layers=false -v "$place/wheel:/wheel" -f - >"$place/seed.log" 2>&1
architectures=$(sed -n 's/^ARG CUDA_ARCHITECTURES="\(.*\)"$/\1/p' Dockerfile)
keep "$place"/wheel/*.whl cuda "$architectures"
seed
build cuda-llamacpp --build-arg "CUDA_BUILD_IMAGE=$base" --build-arg "CUDA_IMAGE=$base"
build vllm --build-arg "VLLM_IMAGE=$base"

# A machine with systemd, for the unit: the image's own installation, and the files that install.sh puts in place.
say "Building a machine with systemd"
cat >"$place/Dockerfile.systemd" <<'EOF'
FROM localhost/wakegate:cpu
RUN apt-get update -q && apt-get install -q -y --no-install-recommends systemd systemd-sysv && userdel wakegate
COPY systemd /opt/wakegate/deploy/systemd
RUN DESTDIR=/ /opt/wakegate/deploy/systemd/install.sh && systemd-sysusers
ENTRYPOINT ["/sbin/init"]
EOF
buildah bud --isolation chroot --layers=false -f "$place/Dockerfile.systemd" -t localhost/wakegate:systemd "$context/deploy" \
  >"$place/systemd.log" 2>&1 || { tail -n 30 "$place/systemd.log" >&2; give_up "That failed: see $place/systemd.log"; }

# The schema that the bill of materials is held against.
rm -rf "$place/cyclonedx"
"$python" -m pip --disable-pip-version-check install -q --no-deps -c constraints.txt --target "$place/cyclonedx" \
  cyclonedx-python-lib

# Those without a name, of stages and of earlier runs.
buildah rmi --prune >/dev/null 2>&1 || say "Old images are still there; rm -rf $place frees everything"
rm -rf "$context" "$place/seed"
say "Everything is in $place"
