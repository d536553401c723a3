# shellcheck shell=bash
# What start.sh and test.sh share: from whatever this machine has to a .venv beside the project with what is needed.
# Sourced, with $root (the checkout) set. It runs no process when everything is there already: a stamp in .venv holds
# pyproject.toml, constraints.txt and what was chosen, and is compared by bash alone.
#
#   known_python            → $base_python of the last time, if it is still there
#   ensure_python [FILE]    finds (or, as root, installs) a Python 3.11 to 3.14: $base_python, also written to FILE
#   is_set_up               whether what start.sh needs is there
#   set_up_for_start        makes it so;  set_up_for_tests: the same, and what the tests need
# Exit codes: 2 when somebody has to install something, 1 when it went wrong (network, disk, permissions).

: "${root:?is set by whoever sources this}"
venv=$root/.venv
stamp=$venv/wakegate-setup
base_python=''
demo_model=''
log='' # what pip, apt and the compiler say; kept, and named, only when they fail

step() { printf '[setup] %s\n' "$*"; }

give_up() { # CODE LINE
  printf '[setup] %s\n' "$2" >&2
  exit "$1"
}

# --- Settings: only what decides about installing; the gateway is the judge of all of them -----------------------------

declare -A from_dotenv=() from_toml=()

read_files() {
  local file=${WAKEGATE_ENV_FILE:-$root/.env} line name value
  if [[ -r $file && (-O $file || $(stat -Lc %u -- "$file" 2>/dev/null) == 0) ]]; then
    while IFS= read -r line || [[ -n $line ]]; do
      [[ $line =~ ^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*=[[:space:]]*(.*)$ ]] || continue
      name=${BASH_REMATCH[2]} value=${BASH_REMATCH[3]%$'\r'}
      unquote
      from_dotenv[$name]=$value
    done <"$file"
  fi
  file=${WAKEGATE_CONFIG:-${from_dotenv[WAKEGATE_CONFIG]:-}}
  if [[ -n $file && -r $file ]]; then
    while IFS= read -r line || [[ -n $line ]]; do
      [[ ! $line =~ ^[[:space:]]*\[ ]] || break
      [[ $line =~ ^[[:space:]]*([a-z0-9_]+)[[:space:]]*=[[:space:]]*(.*)$ ]] || continue
      name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]%$'\r'}
      unquote
      from_toml[${name^^}]=$value
    done <"$file"
  fi
}

unquote() { # $value
  if [[ $value =~ ^\"([^\"]*)\" || $value =~ ^\'([^\']*)\' ]]; then
    value=${BASH_REMATCH[1]}
  else
    value=${value%%[[:space:]]#*}
    value=${value%"${value##*[![:space:]]}"}
  fi
}

setting() { # NAME…: the first of these that has a value, in $REPLY; the order is INTERFACE.md's
  local name
  for name; do
    local key=WAKEGATE_$name
    REPLY=${!key:-${from_dotenv[$key]:-${!name:-${from_dotenv[$name]:-${from_toml[$name]:-}}}}}
    [[ -z $REPLY ]] || return 0
  done
  return 1
}

# --- What is needed -----------------------------------------------------------------------------------------------------

choose() { # → $extras, $flavour, $demo_model
  local model='' engine=''
  extras=() flavour=none demo_model=''
  read_files
  setting PROVIDER || ! setting UPSTREAM_URL VLLM_API_URL || return 0 # something that runs elsewhere
  setting PROVIDER && [[ $REPLY != *local* ]] && return 0
  setting MODEL MODEL_NAME MODEL_PATH MODEL_REPO && model=$REPLY
  if setting ENGINE; then engine=$REPLY; elif setting ENGINE_COMMAND; then engine='command'; fi
  if [[ -z $model && $engine != command ]]; then
    setting DATA_DIR || REPLY=$root/data
    demo_model=$REPLY/models/wakegate-demo.gguf
    extras+=(demo)
  fi
  case $engine in
    llama-cpp-python) ;;
    '')
      # What this machine has already is used rather than minutes of compiling. vLLM cannot serve the demo model or a GGUF.
      ! hash llama-server 2>/dev/null || return 0
      [[ -z $model || ${model,,} == *gguf* ]] || ! hash vllm 2>/dev/null || return 0
      ;;
    *) return 0 ;;
  esac
  extras+=(llama)
  flavour=cpu
  ! has_gpu || ! find_nvcc || flavour=cuda
}

has_gpu() { [[ -e /proc/driver/nvidia/version || -e /dev/nvidiactl || -e /dev/dxg ]]; }

find_nvcc() { # → $nvcc
  nvcc=''
  local place
  for place in "${CUDACXX:-}" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" /usr/local/cuda/bin/nvcc; do
    if [[ -n $place && -x $place ]]; then nvcc=$place; fi
  done
  if hash nvcc 2>/dev/null; then nvcc=nvcc; fi
  [[ -n $nvcc ]]
}

# --- The stamp ------------------------------------------------------------------------------------------------------------

# Lines: the Python it was made from · the checkout's path · flavour of llama-cpp-python · what is installed, in spaces ·
# then both files that say what to install.

slurp() { # FILE: its text in $REPLY
  REPLY=''
  [[ -r $1 ]] && IFS= read -r -d '' REPLY <"$1"
  [[ -n $REPLY ]]
}

wanted_files() { # their text in $REPLY
  local text
  slurp "$root/pyproject.toml"
  text=$REPLY
  slurp "$root/constraints.txt"
  REPLY=$text$REPLY
}

read_stamp() { # → $stamped_python $stamped_root $stamped_flavour $stamped_have $stamped_files
  stamped_python='' stamped_root='' stamped_flavour='' stamped_have=' ' stamped_files=''
  [[ -r $stamp ]] || return 1
  {
    read -r stamped_python
    read -r stamped_root
    read -r stamped_flavour
    IFS= read -r stamped_have
    IFS= read -r -d '' stamped_files
  } <"$stamp"
  [[ -n $stamped_files ]]
}

known_python() {
  read_stamp && [[ -x $stamped_python && $stamped_root == "$root" && -x $venv/bin/python ]] && base_python=$stamped_python
}

has() { # NAME…: whether all of these are installed from the files as they are now
  local name
  wanted_files
  [[ $REPLY == "$stamped_files" ]] || return 1
  for name; do [[ $stamped_have == *" $name "* ]] || return 1; done
}

has_packages() { # what `choose` has chosen
  known_python && has base "${extras[@]}" && [[ $flavour == none || $flavour == "$stamped_flavour" ]]
}

is_set_up() {
  choose
  has_packages && { [[ -z $demo_model ]] || demo_is_there; }
}

demo_is_there() { [[ -s $demo_model && ! $root/scripts/make_demo_model.py -nt $demo_model ]]; }

# --- Running things so that one can see how far they are, and why they failed --------------------------------------------

litter=() # what is removed on the way out, however that comes

open_log() { # runs in a shell of its own in start.sh, whose own clean-up this therefore does not replace
  log=$(mktemp "${TMPDIR:-/tmp}/wakegate-setup.XXXXXX.log") ||
    give_up 1 "Cannot write to ${TMPDIR:-/tmp}: free some space there, or set TMPDIR to a folder with room"
  litter=("$log")
  trap 'rm -rf -- "${litter[@]}"' EXIT
}

close_log() {
  rm -rf -- "${litter[@]}"
  trap - EXIT
}

elapsed() { # SECONDS that it began at
  local took=$((SECONDS - $1))
  if ((took < 60)); then REPLY="$took s"; else REPLY="$((took / 60)) min $((took % 60)) s"; fi
}

progress() { # LABEL LINE-FILTER: shows what comes on stdin as one changing line on a terminal, every tenth in a log
  local label=$1 filter=$2 line began=$SECONDS shown=-1 percent what
  while IFS= read -r line; do
    printf '%s\n' "$line" >>"$log"
    percent='' what=''
    "$filter" "$line" || continue
    elapsed "$began"
    if [[ -t 1 ]]; then
      printf '\r\e[K[setup] %s: %.60s (%s)' "$label" "${percent:+$percent % }$what" "$REPLY"
    elif [[ -n $percent ]] && ((percent / 10 > shown)); then
      shown=$((percent / 10))
      step "$label: $percent % ($REPLY)"
    fi
  done
  [[ ! -t 1 ]] || printf '\r\e[K'
}

ninja_line() { # "[12/345] Building …", or make's "[ 12%] Building …"
  if [[ $1 =~ \[([0-9]+)/([0-9]+)\]\ *(.*) ]] && ((BASH_REMATCH[2] > 0)); then
    percent=$((100 * BASH_REMATCH[1] / BASH_REMATCH[2])) what=${BASH_REMATCH[3]##*/}
  elif [[ $1 =~ \[\ *([0-9]+)%\]\ (.*) ]]; then
    percent=${BASH_REMATCH[1]} what=${BASH_REMATCH[2]##*/}
  else
    pip_line "$1" # before the compiler starts
  fi
}

pip_line() {
  [[ $1 =~ ^\ *(Collecting|Downloading|Building|Preparing|Installing)\ ([^ ]*) ]] && what="${BASH_REMATCH[1],,} ${BASH_REMATCH[2]##*/}"
}

apt_line() { [[ $1 =~ ^(Get:[0-9]+|Unpacking|Setting\ up)\ (.*) ]] && what=${BASH_REMATCH[0]}; }

show() { # LABEL LINE-FILTER COMMAND…: runs it, and gives up with one line when it fails
  local label=$1 filter=$2 began=$SECONDS code
  shift 2
  step "$label …"
  printf '$ %s\n' "$*" >"$log"
  "$@" 2>&1 </dev/null | progress "$label" "$filter"
  code=${PIPESTATUS[0]}
  elapsed "$began"
  if ((code == 0)); then
    step "$label: done ($REPLY)"
  else
    explain "$label"
  fi
}

explain() { # LABEL: the last command's output in words that somebody can act on
  local why
  if said 'No space left on device|Disk quota exceeded|not enough free space'; then
    why="the disk is full: free some space (the packages need 1 GB, compiling llama-cpp-python 2 GB more)"
  elif said 'Temporary failure|Name or service not known|Failed to establish a new connection|Network is unreachable|No route to host|Could not resolve|Connection (refused|reset|timed out|broken)|ConnectTimeout|ReadTimeout|Max retries exceeded|ProxyError|Could not connect'; then
    why="no way to the package registry: check the network, HTTPS_PROXY and PIP_INDEX_URL, then run this again"
  elif said 'CERTIFICATE_VERIFY_FAILED|certificate verify failed'; then
    why="the registry's TLS certificate is not trusted here: install ca-certificates, or name your CA in PIP_CERT"
  elif said 'Permission denied|Read-only file system|Operation not permitted'; then
    why="a folder cannot be written by $(id -un): $(grep -oaE "(Permission denied|Read-only file system|Operation not permitted)[^,]*" "$log" | tail -n 1)"
  elif said 'Could not get lock|Unable to acquire the dpkg'; then
    why="another package manager is at work: let it finish, then run this again"
  elif said 'Killed signal terminated program|cannot allocate memory|out of memory'; then
    why="memory ran out: 2 GB per core are needed; set CMAKE_BUILD_PARALLEL_LEVEL=1 and run this again"
  else
    why="failed: $(grep -aiE 'error' "$log" | tail -n 1 | cut -c 1-200)"
  fi
  litter=("${litter[@]:1}") # the log stays
  give_up 1 "$1: $why. Everything that was said stands in $log"
}

said() { grep -qaiE "$1" "$log"; }

# --- Debian packages ------------------------------------------------------------------------------------------------------

apt_updated=0

apt_update() {
  ((apt_updated)) || show "Asking Debian for its packages" apt_line apt-get -o DPkg::Lock::Timeout=120 update
  apt_updated=1
}

need() { # WHAT-FOR PACKAGE…: installs them as root, or says what to type
  local what=$1 sudo=''
  shift
  if ((EUID == 0)) && hash apt-get 2>/dev/null; then
    apt_update
    DEBIAN_FRONTEND=noninteractive show "Installing $*" apt_line \
      apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@"
    hash -r
    return
  fi
  ((EUID == 0)) || sudo='sudo '
  give_up 2 "$what: run ${sudo}apt-get install -y $* (or what your system calls them), then this again"
}

# --- Python -----------------------------------------------------------------------------------------------------------------

# One line per usable Python: how good it is, and where. PGO makes requests cheaper; the doctor and this go by the
# same file. One that does not say comes between those that have it and those that do not.
probe_python='
import sys
if sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info[:2] <= (3, 14):
    sys.exit(1)
import os, sysconfig
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit(1)
sys.path.append(sys.argv[1])
from pgo import has_pgo
pgo = {True: 2, None: 1, False: 0}[has_pgo(sysconfig.get_config_vars())]
try:
    import ensurepip, venv
    usable = 1
except ImportError:
    usable = 0
print(usable * 1000 + pgo * 100 + sys.version_info[1], os.path.realpath(sys._base_executable))
'

# The best there is on PATH: $base_python, and its $score (below 1000: it has no venv). With PGO comes before newer: a
# newer one costs as much per request, within the noise.
find_python() {
  local name path found
  base_python='' score=0
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    while IFS= read -r path; do
      found=$("$path" -I -B -c "$probe_python" "$root/gateway/doctor" 2>/dev/null) || continue
      if ((${found%% *} > score)); then score=${found%% *} base_python=${found#* }; fi
    done < <(type -aP "$name")
  done
}

# shellcheck disable=SC2120 # test.sh needs no file
ensure_python() { # [FILE]
  open_log
  find_python
  if ((score < 1000)); then
    local packages=(python3 python3-venv) minor
    if [[ -n $base_python ]]; then
      packages=("python3.$((score % 100))-venv")
    elif ((EUID == 0)) && hash apt-get 2>/dev/null; then
      apt_update
      # Where the system's own is too old (Ubuntu 22.04), a newer one may stand beside it.
      if [[ ! $(apt-cache policy python3) =~ Candidate:\ 3\.1[1-4] ]]; then
        for minor in 11 12 13 14; do
          [[ ! $(apt-cache policy "python3.$minor") =~ Candidate:\ 3 ]] || packages=("python3.$minor" "python3.$minor-venv")
        done
      fi
    fi
    # Whoever has to type this shall not be told of the compiler only afterwards.
    choose
    missing_compilers=()
    [[ $flavour == none ]] || llama_wheel || find_compilers
    need "WakeGate needs Python 3.11 to 3.14 with venv" "${packages[@]}" "${missing_compilers[@]}"
    find_python
    ((score >= 1000)) || give_up 2 "There is no Python 3.11 to 3.14 with venv among ${packages[*]}: install one"
  fi
  close_log
  printf '%s\n' "$base_python" >"${1:-/dev/null}"
}

make_venv() {
  if [[ -e $venv ]]; then
    [[ -w $venv ]] || give_up 1 "Cannot write $venv: run this as its owner ($(stat -c %U "$venv"))"
  else
    [[ -w $root ]] || give_up 1 "Cannot write $root: run this as its owner ($(stat -c %U "$root")), or from a clone of your own"
  fi
  # One that was made from another Python or at another place would half work.
  if "$venv/bin/python" -c '
import os, sys
same = os.path.realpath(sys._base_executable) == sys.argv[1] and os.path.realpath(sys.prefix) == sys.argv[2]
sys.exit(not same)' "$base_python" "$venv" 2>/dev/null && "$venv/bin/python" -m pip --version >>"$log" 2>&1; then
    return
  fi
  # Made anew it would be emptied wherever the link leads, and somebody else may live there.
  [[ ! -L $venv ]] || give_up 2 "$venv is a link to $(readlink -f -- "$venv"), which is not an environment for this checkout: remove the link"
  show "Making a virtual environment with $base_python" pip_line "$base_python" -m venv --clear "$venv"
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

# --- llama-cpp-python -----------------------------------------------------------------------------------------------------

# Compiled once per machine and kept outside the tree: minutes of work that a fresh clone need not repeat.

llama_wheel() { # whether there is one: $wheel; where they are kept: $wheels
  slurp "$root/constraints.txt"
  [[ $REPLY =~ llama-cpp-python==([^[:space:]]+) ]] && llama_version=${BASH_REMATCH[1]}
  wheels=${WAKEGATE_WHEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wakegate/wheels}
  [[ $flavour != cuda ]] || wheels+=/cuda-$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
  local found=("$wheels/llama_cpp_python-$llama_version"-*"_$(uname -m).whl")
  wheel=${found[0]}
  [[ -e $wheel ]]
}

find_compilers() { # → $missing_compilers, as Debian packages
  missing_compilers=()
  hash c++ 2>/dev/null || hash g++ 2>/dev/null || hash clang++ 2>/dev/null || missing_compilers+=(g++)
  hash cmake 2>/dev/null || missing_compilers+=(cmake)
  # Ninja comes from the registry as well; only who installs the others anyway gets it from Debian.
  ((${#missing_compilers[@]} == 0)) || hash ninja 2>/dev/null || missing_compilers+=(ninja-build)
}

ensure_llama_wheel() {
  if [[ $flavour == cuda ]] && ! nvidia-smi -L >>"$log" 2>&1; then
    step "nvidia-smi sees no GPU: llama-cpp-python will be the CPU build"
    flavour=cpu
  elif [[ $flavour == cpu ]] && has_gpu; then
    step "There is an NVIDIA GPU, but no nvcc: this will be a CPU build. For the GPU install the CUDA toolkit (apt-get install -y nvidia-cuda-toolkit, or NVIDIA's) and run this again"
  fi
  ! llama_wheel || return 0
  local options=-DGGML_NATIVE=OFF part # a build for this very CPU would die elsewhere with SIGILL
  find_compilers
  if ((${#missing_compilers[@]})); then
    need "llama-cpp-python has to be compiled once (or have llama-server on PATH, or set UPSTREAM_URL)" \
      "${missing_compilers[@]}"
  fi
  if [[ $flavour == cuda ]]; then
    options+=" -DGGML_CUDA=on"
    [[ $nvcc == nvcc ]] || export CUDACXX=$nvcc
  fi
  if ! { mkdir -p -- "$wheels" && part=$(mktemp -d "$wheels/.build.XXXXXX"); } 2>>"$log"; then
    give_up 1 "Cannot write $wheels: set WAKEGATE_WHEEL_CACHE to a folder that you can write"
  fi
  litter+=("$part")
  CMAKE_ARGS="${CMAKE_ARGS:+$CMAKE_ARGS }$options" show "Compiling llama-cpp-python $llama_version for ${flavour^^} (once, some minutes)" \
    ninja_line pip wheel -v --no-deps --no-binary llama-cpp-python --build-constraint "$root/constraints.txt" \
    -w "$part" "llama-cpp-python==$llama_version"
  mv -f -- "$part"/*.whl "$wheels/"
  llama_wheel
}

# --- Putting it together --------------------------------------------------------------------------------------------------

set_up() { # EXTRA-OR-GROUP…: everything named is installed; what was there before stays
  local name extras_list='' options=() wanted=" base $* " hint
  open_log
  # Two at once (start.sh and test.sh, say) take turns; the folder itself is the lock, so that none is left behind.
  local lock
  exec {lock}<"$root"
  if ! flock -n "$lock" 2>/dev/null; then
    step "Waiting for another set-up of this checkout"
    flock "$lock"
    if known_python && has base "$@"; then
      close_log
      return
    fi
  fi
  read_stamp
  hint=$stamped_flavour
  for name in $stamped_have; do [[ $wanted == *" $name "* ]] || wanted+="$name "; done
  make_venv
  show "Bringing pip up to date" pip_line pip install -c "$root/constraints.txt" pip
  if [[ $wanted == *" llama "* || $wanted == *" test "* ]]; then
    [[ $flavour != none ]] || flavour=$stamped_flavour
    [[ $flavour == cuda ]] && find_nvcc || flavour=cpu
    hint=$flavour
    ensure_llama_wheel
    options+=(--find-links "$wheels" --only-binary llama-cpp-python)
    # pip takes the same version of another flavour for the same thing.
    [[ $stamped_flavour == "$hint" || ! $stamped_flavour =~ ^c ]] || pip uninstall -y llama-cpp-python >>"$log" 2>&1
  fi
  for name in $wanted; do
    case $name in
      base) ;;
      llama | demo) extras_list+=${extras_list:+,}$name ;;
      *) options+=(--group "$root/pyproject.toml:$name") ;;
    esac
  done
  show "Installing packages" pip_line pip install --progress-bar off -c "$root/constraints.txt" \
    --build-constraint "$root/constraints.txt" "${options[@]}" -e "$root${extras_list:+[$extras_list]}"
  # pip does that for packages, and for a checkout nobody does: the first start would take a fifth of a second longer.
  "$venv/bin/python" -m compileall -q "$root/gateway" "$root/health" >>"$log" 2>&1
  wanted_files
  printf '%s\n%s\n%s\n%s\n%s' "$base_python" "$root" "$hint" "$wanted" "$REPLY" >"$stamp.new" && mv -f "$stamp.new" "$stamp"
  close_log
  exec {lock}<&-
}

set_up_for_start() {
  choose
  has_packages || set_up "${extras[@]}"
  if [[ -n $demo_model ]] && ! demo_is_there; then make_demo; fi
}

make_demo() {
  open_log
  if ! mkdir -p -- "${demo_model%/*}" 2>>"$log" || [[ ! -w ${demo_model%/*} ]]; then
    give_up 1 "Cannot write ${demo_model%/*}: set DATA_DIR to a folder that you can write, or MODEL to a model"
  fi
  show "Making a demo model (no MODEL is set; it talks nonsense)" pip_line \
    "$venv/bin/python" "$root/scripts/make_demo_model.py" "$demo_model"
  close_log
}

# --- Tests ----------------------------------------------------------------------------------------------------------------

# What the tests and checks call besides Python: command, Debian package, and what for.
test_tools='
  make        make        for CI and for people who type make check
  c++         g++         llama-cpp-python and llama-server
  cmake       cmake       the same
  ninja       ninja-build the same, at twice the speed
  git         git         the tests of docs and layout ask which files are ours
  pgrep       procps      the tests of the end look for what is left
  strace      strace      the tests of writes count system calls, and make them fail
  unshare     util-linux  start.sh as process 1
  mount       mount       volumes that fill, vanish and come back
  faketime    faketime    logs that grow old
  openssl     openssl     certificates for the tests of TLS
  nginx       nginx-light a proxy in front, as the docs configure it
  caddy       caddy       another one
  redis-server redis-server what several gateways share: a real one, killed and paused
  setpriv     util-linux  tests as somebody who is not root
  promtool    prometheus  lints the metrics and their alerts; its Prometheus scrapes a worker
  curl        curl        the README pastes it
  shellcheck  shellcheck  for make check
  systemd-analyze systemd checks the unit of the service
'

set_up_for_tests() {
  local command package why missing=()
  while read -r command package why; do
    [[ -z $command ]] || hash "$command" 2>/dev/null || [[ -x /usr/sbin/$command ]] || missing+=("$package")
  done <<<"$test_tools"
  if ! known_python; then
    find_python
    # As root ensure_python installs it, and knows better which.
    ((EUID == 0 || score >= 1000)) || missing=(python3 python3-venv "${missing[@]}")
  fi
  if ((${#missing[@]})); then
    open_log
    keep_from_starting "${missing[@]}"
    need "The tests need ${missing[*]}" "${missing[@]}"
    close_log
  fi
  # shellcheck disable=SC2119
  known_python || ensure_python
  choose
  has_test_packages || set_up llama demo test check
}

keep_from_starting() { # PACKAGE…: Debian starts the services that it installs, and nobody asked for a Prometheus on port 9090
  local package
  ((EUID == 0)) && hash systemctl 2>/dev/null || return 0
  for package; do
    case $package in
      prometheus | caddy | redis-server) systemctl mask "$package.service" >>"$log" 2>&1 || true ;;
      nginx-light) systemctl mask nginx.service >>"$log" 2>&1 || true ;;
    esac
  done
}

has_test_packages() { known_python && has base llama demo test check; }
