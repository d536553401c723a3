#!/usr/bin/env bash
# Installs the proxies that the gateway is measured beside: programs from Debian (as root), Python packages each into a
# virtual environment of its own, Go's ReverseProxy built from reverse_proxy.go. All of it but Debian's packages lies in
# ${XDG_CACHE_HOME:-~/.cache}/wakegate/bench/peers, outside the tree. Never a part of ./test.sh. What is there stays as
# it is; what cannot be had is said, and the benchmark does without it.
#
# usage: bench/peers/install.sh [PYTHON]     (make bench-peers)
set -uo pipefail
python=$(command -v "${1:-python3}") || { echo "there is no ${1:-python3}" >&2; exit 2; }
python=$(cd "$(dirname "$python")" && pwd)/${python##*/}
cd "$(dirname "$0")" || exit 2
peers=${XDG_CACHE_HOME:-$HOME/.cache}/wakegate/bench/peers
mkdir -p "$peers"
failed=0

say() { printf '[bench-peers] %s\n' "$*"; }

debian() { # PROGRAM PACKAGE
  PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null && return
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    say "installing $2"
    apt-get install -y -qq --no-install-recommends "$2" >"$peers/apt.log" 2>&1 && return
    tail -2 "$peers/apt.log"
  fi
  say "missing: apt install $2"
  failed=1
}

venv() { # NAME PACKAGE…: the folder's name is what bench/subjects.py looks for
  local name=$1 folder=$peers/$1
  shift
  [[ "$(cat "$folder/installed" 2>/dev/null)" == "$*" ]] && return
  say "installing $* into $folder"
  rm -rf "$folder"
  if "$python" -m venv "$folder" && "$folder/bin/pip" install --quiet "$@" >"$peers/$name.log" 2>&1; then
    printf '%s\n' "$*" >"$folder/installed"
  else
    tail -2 "$peers/$name.log"
    say "missing: $name (the log is $peers/$name.log)"
    rm -rf "$folder"
    failed=1
  fi
}

go_proxy() {
  local source=reverse_proxy.go built
  built=$peers/go-$(sha256sum "$source" | cut -c-16)/reverse_proxy
  [[ -x $built ]] && return
  command -v go >/dev/null || return # said above
  say "building $source"
  if ! CGO_ENABLED=0 GOFLAGS=-mod=mod GOCACHE=$peers/go-cache go build -o "$built" "$source" >"$peers/go.log" 2>&1; then
    tail -2 "$peers/go.log"
    failed=1
  fi
}

debian nginx nginx-light
debian haproxy haproxy
debian caddy caddy
debian go golang-go
go_proxy
venv routers vllm-router==0.1.17 sglang-router==0.3.2
venv fastapi fastapi==0.165.0 httpx==0.28.1 'uvicorn[standard]==0.54.0'
venv litellm 'litellm[proxy]==1.106.2'
command -v llama-swap >/dev/null || say "llama-swap is in no registry: put one of its releases into PATH, and it is measured"
exit "$failed"
