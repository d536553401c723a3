#!/usr/bin/env bash
# WakeGate's one command: from whatever this machine has to a gateway that serves, and to an orderly end.
#
#   ./start.sh               sets up what is missing (scripts/setup.sh), then runs both ports
#   ./start.sh --no-setup    installs nothing; so does WAKEGATE_PYTHON=/path/to/python, which the container image sets
#
# The health server comes first, before anything is installed, imported or loaded: the platform asks at once. Then the
# gateway, which starts the engine itself. This script stays as the parent of both, waits, and passes on how it ended:
#   the gateway ends          everything ends with its exit code (128 + signal if it was killed)
#   the health server ends    it is restarted, three times at most, then everything ends with its code
#   SIGTERM, SIGINT           go to the gateway, once; health answers (503) until the gateway has ended; exit code 0
#   a second signal           ends at once
#   SIGHUP                    the gateway reads keys and certificates again; ends it when the terminal went away
# Both children have process groups of their own, or Ctrl-C would reach the gateway twice.
set -uo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then
  echo "[start.sh] This bash is $BASH_VERSION, and 5.1 or later is needed: install a newer bash" >&2
  exit 2
fi

script=${BASH_SOURCE[0]}
[[ ! -L $script ]] || script=$(readlink -f -- "$script")
# Without $(…): each is a process, and the second run of this script has milliseconds.
here=$PWD
if [[ $script == */* ]]; then
  cd -P -- "${script%/*}" && here=$PWD
  cd -- "$OLDPWD" || exit 1
fi
# A checkout has health/ and gateway/ beside this script; an installed wheel has this script inside gateway/.
if [[ -d $here/health ]]; then root=$here; else root=${here%/*}; fi

python=${WAKEGATE_PYTHON:-} # runs the gateway
health_python=$python       # runs the health server: known earlier, as it needs no packages
run_dir='' boot=''
gateway='' health='' busy='' patience='' # process ids of children; empty: there is none
gateway_ran=''   # set once there has been a gateway, which may have started an engine
health_deaths=0
signals=0     # how many times we were asked to end
told_at=0     # when that was last, in microseconds
launching=0   # between a fork and the moment its id is known
pending=''    # the signal that came meanwhile
sent=''       # the number of the signal that the gateway was sent
terminal=''    # set when we were started from a terminal, which may go away
health_code='' # what the health server ended with, once that has happened too often

say() { printf '[start.sh] %s\n' "$*"; }

fail() { # CODE LINE
  say "$2" >&2
  exit "$1"
}

usage() { sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

# --- The end --------------------------------------------------------------------------------------------------------

on_signal() { # NAME
  if ((launching)); then
    pending=$1
    return
  fi
  if [[ -z $gateway ]]; then
    exit 0 # by way of clean_up: nothing is running yet that could have callers
  fi
  # `timeout` and some supervisors tell the process and then its whole group: that is one wish, not impatience.
  local now=${EPOCHREALTIME//[!0-9]/}
  ((now - told_at > 100000)) || return
  told_at=$now signals=$((signals + 1))
  if [[ $1 == INT ]]; then sent=2; else sent=15; fi
  kill -s "$1" "$gateway" 2>/dev/null
  if ((signals == 2)); then
    # The gateway ends at once by itself, its ledger written. It is given a moment for that, not more.
    spawn sleep 2
    patience=$spawned
    launched
  elif ((signals > 2)); then
    kill -s KILL -- "-$gateway" 2>/dev/null
  fi
}

has_terminal() { { : </dev/tty; } 2>/dev/null; }

# shellcheck disable=SC2317 # called by the trap
on_hangup() {
  if [[ -n $terminal ]] && ! has_terminal; then
    on_signal TERM
  elif [[ -n $gateway ]] && ((!launching)); then
    kill -s HUP "$gateway" 2>/dev/null
  fi
}

# shellcheck disable=SC2317 # clean_up is called by the trap
stop() { # PID SIGNAL: ends a child with its whole group, and waits for it
  [[ -n $1 ]] || return 0
  kill -s "$2" -- "-$1" 2>/dev/null
  kill -s CONT -- "-$1" 2>/dev/null # one that somebody stopped (SIGSTOP) would not hear it
  reap "$1"
}

# shellcheck disable=SC2317
clean_up() {
  trap '' TERM INT HUP
  # Health first: a dead gateway's last word may have been "ready".
  stop "$health" TERM
  stop "$patience" KILL
  if [[ -n $busy ]]; then
    stop "$busy" TERM
    kill -s KILL -- "-$busy" 2>/dev/null # what it started may have ignored the first
  fi
  stop "$gateway" KILL
  local guard=$root/gateway/providers/local/guard.py
  if [[ -n $gateway_ran && -e $guard ]]; then
    # Whatever of an engine has survived gateway and guard would keep the GPU.
    timeout -k 1 30 "$python" -I -S "$guard" sweep "$boot"
  fi
  [[ -z $run_dir ]] || rm -rf -- "$run_dir"
}

# --- Children -------------------------------------------------------------------------------------------------------

# The kernel ends a child when this script is killed with -9 and cannot.
die_with_parent=()
! hash setpriv 2>/dev/null || die_with_parent=(setpriv --pdeathsig TERM)

spawn() { # COMMAND…: in the background, in a process group of its own; call `launched` when $spawned has been noted
  launching=1
  set -m
  "$@" </dev/null &
  spawned=$!
  set +m
}

launched() {
  local name=$pending
  launching=0 pending=''
  [[ -z $name ]] || on_signal "$name"
}

reap() { # PID: waits for it; its exit code is in $code
  local running
  if ! kill -0 "$1" 2>/dev/null; then
    # A child that dies in the instant in which a signal interrupts `wait` is lost to bash (seen with 5.2): buried, but
    # still in the list, where `wait` would look for it forever. It ended as we were asked to end.
    running=$(jobs -pr)
    if [[ $'\n'$running$'\n' == *$'\n'$1$'\n'* ]]; then
      code=$((128 + ${sent:-15}))
      return
    fi
  fi
  wait "$1" 2>/dev/null
  code=$?
}

await() { # PID…: until one has ended ($ended, $code) or a signal has come ($ended is empty)
  local pid
  ended='' code=0
  for pid; do
    # wait -n does not know a child that bash has buried already; a plain wait does.
    if ! kill -0 "$pid" 2>/dev/null; then
      reap "$pid"
      ended=$pid
      return
    fi
  done
  wait -n -p ended "$@" 2>/dev/null
  code=$?
  ended=${ended:-} # wait -p unsets it when a signal came
}

run() { # FUNCTION…: in the background, so that a signal is heard at once; ends this script when it fails
  spawn "$@"
  busy=$spawned
  launched
  while :; do
    await "$busy" ${health:+"$health"}
    [[ $ended != "$busy" ]] || break
    [[ -z $ended ]] || restart_health "$code"
  done
  busy=''
  ((code == 0)) || exit "$code"
}

make_run_dir() {
  local place
  # tmpfs, so that the heartbeat costs no disk; never DATA_DIR, which may be a network volume that others see.
  for place in "/run/user/$UID" /dev/shm /tmp; do
    [[ -d $place && -w $place ]] || continue
    run_dir=$place/wakegate.${boot%%-*}
    ! mkdir -m 0700 -- "$run_dir" 2>/dev/null || return 0
  done
  run_dir=''
  fail 1 "No place for the run folder: /run/user/$UID, /dev/shm and /tmp cannot be written; mount a tmpfs on /tmp"
}

start_health() { # its port is in $port, or nothing is and its exit code is in $code
  local to from
  # A pipe of which only the health server holds the writing end: it says its port there, or it ends; both are heard.
  exec {to}<> <(:)
  exec {from}<"/dev/fd/$to"
  trap '' HUP # inherited: it has nothing to read again, and must not end when the whole group is told to
  WAKEGATE_READY_FD=$to spawn "${die_with_parent[@]}" "$health_python" -I -S "$root/health"
  health=$spawned
  launched
  trap on_hangup HUP
  exec {to}>&-
  port=''
  read -r -t 20 port <&"$from"
  exec {from}<&-
  if [[ -n $port ]]; then
    say "Health server PID: $health (port $port)"
  else
    kill -s KILL "$health" 2>/dev/null # for the one that is neither dead nor listening
    wait "$health" 2>/dev/null
    code=$?
    health=''
  fi
}

restart_health() { # CODE that it ended with
  code=$1 health=''
  while ((health_deaths < 3)); do
    health_deaths=$((health_deaths + 1))
    say "The health server has ended ($(how "$code")): restarting it, $health_deaths of 3"
    start_health
    [[ -z $port ]] || return 0
  done
  say "The health server has ended ($(how "$code")) too often: ending"
  health_code=$code
  [[ -n $gateway ]] || exit "$health_code"
  on_signal TERM
}

how() { if (($1 > 128)); then echo "killed by signal $(($1 - 128))"; else echo "exit code $1"; fi; }

start_gateway() {
  # The checkout's own code, also where nothing was installed; -P, because a folder of the user's may be called gateway, too.
  [[ $root != "$here" ]] || export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  trap '' HUP # the gateway inherits that: until it listens to a hang-up itself, one would end it
  # No plugin of pydantic's: each would see all settings, and looking for some takes 5 ms.
  PYDANTIC_DISABLE_PLUGINS=__all__ spawn "${die_with_parent[@]}" "$python" -P -m gateway
  gateway=$spawned gateway_ran=1
  launched
  trap on_hangup HUP
}

# --- The story ------------------------------------------------------------------------------------------------------

set_up=1
[[ -z $python ]] || set_up=0
while (($#)); do
  case $1 in
    --no-setup) set_up=0 ;;
    -h | --help) usage; exit 0 ;;
    *) fail 2 "Unknown argument \"$1\": start.sh knows --no-setup and --help; settings go into the environment or .env" ;;
  esac
  shift
done

! has_terminal || terminal=1
trap clean_up EXIT
trap 'on_signal TERM' TERM
trap 'on_signal INT' INT
trap on_hangup HUP

read -r boot </proc/sys/kernel/random/uuid
make_run_dir
export WAKEGATE_RUN_DIR=$run_dir WAKEGATE_BOOT=$boot

if ((set_up)); then
  # shellcheck source=scripts/setup.sh
  source "$root/scripts/setup.sh"
  if ! known_python; then
    run ensure_python "$run_dir/python"
    read -r base_python <"$run_dir/python"
  fi
  health_python=$base_python
elif [[ -z $python ]]; then
  if [[ -x $root/.venv/bin/python ]]; then python=$root/.venv/bin/python; else python=python3; fi
  health_python=$python
fi
if [[ $health_python == */* && ! -x $health_python ]] || ! hash -- "$health_python" 2>/dev/null; then
  fail 2 "WAKEGATE_PYTHON is \"$health_python\": give the path of a Python 3.11 to 3.14"
fi

say "Starting health server"
start_health
[[ -n $port ]] || exit "$code"

if ((set_up)); then
  is_set_up || run set_up_for_start
  python=$venv/bin/python
  [[ -z $demo_model ]] || export WAKEGATE_DEMO_MODEL=$demo_model
fi

say "Starting gateway"
start_gateway
while :; do
  await "$gateway" ${health:+"$health"} ${patience:+"$patience"}
  case $ended in
    '') ;; # a signal came, and has been seen to
    "$gateway") break ;;
    "$health") restart_health "$code" ;;
    "$patience")
      patience=''
      kill -s KILL -- "-$gateway" 2>/dev/null
      ;;
  esac
done
gateway=''
if [[ -n $health_code ]]; then
  exit "$health_code"
elif ((signals == 1 && code == 128 + sent)); then
  exit 0 # it was asked to end before it could listen to that, and did
fi
((signals)) || say "The gateway has ended ($(how "$code"))"
exit "$code"
