#!/usr/bin/env bash
# The image's first process, and its command `wakegate`: gives root away, then becomes what was asked for.
#
#   (nothing), or options     start.sh: both ports
#   a word: doctor, pull, …   wakegate's, with what follows; as the same user, so that the gateway can read what it wrote
#   bash, sh, python, a path  that program, as whoever the container was started as
#
# The container starts as root for one reason: platforms mount volumes that belong to root, and only root can hand one
# over. From then on nothing is root: no capability is left, and none can be had again. A container that was started as
# somebody else (--user, runAsUser) runs as that. tini is not needed: start.sh, which this becomes, forwards signals and
# buries the dead as process 1 (tests/test_start_sh.py).
set -uo pipefail

opt=$(readlink -f -- "${BASH_SOURCE[0]}")
opt=${opt%/share/*} # /opt/wakegate
user=10001          # runtime.sh makes it
home=/home/wakegate

say() { printf '[container] %s\n' "$*" >&2; }

find_data() { # → $data: where DATA_DIR will be; the order is that of data_dir() in gateway/surroundings.py
  local place places=(/data)
  data=${WAKEGATE_DATA_DIR:-${DATA_DIR:-}}
  [[ -z $data ]] || return 0
  if [[ -n ${RUNPOD_DC_ID:-}${RUNPOD_POD_HOSTNAME:-} ]]; then
    places=(/workspace /runpod-volume /data)
    [[ -z ${RUNPOD_ENDPOINT_ID:-}${RUNPOD_WEBHOOK_GET_JOB:-}${RUNPOD_WEBHOOK_PING:-} ]] ||
      places=(/runpod-volume /workspace /data)
  elif is_vast; then
    places=(/workspace /data)
  fi
  for place in "${places[@]}"; do
    if [[ -d $place ]]; then
      data=$place
      return
    fi
  done
}

is_vast() {
  local ports=("${!VAST_TCP_PORT_@}")
  [[ -n ${VAST_CONTAINERLABEL:-} || (-n ${CONTAINER_ID:-} && -n ${CONTAINER_API_KEY:-}) ]] || ((${#ports[@]}))
}

as_user() { setpriv "${identity[@]}" -- "$@"; }

can_write() { as_user test -w "$1" -a -x "$1"; }

choose_user() { # → $identity, what setpriv is told
  local uid=$user gid=$user group groups=''
  # A volume that is somebody's (a folder of the host's, an NFS export) is written as that somebody.
  if [[ -d $data ]]; then
    read -r uid gid < <(stat -Lc '%u %g' -- "$data")
    ((uid)) || uid=$user
    ((gid)) || gid=$user
  fi
  # What --group-add gave stays (the group of a render device); root's group goes.
  for group in $(id -G); do
    ((group == 0)) || groups+=${groups:+,}$group
  done
  identity=("--reuid=$uid" "--regid=$gid" --inh-caps=-all --no-new-privs)
  if [[ -n $groups ]]; then identity+=("--groups=$groups"); else identity+=(--clear-groups); fi
  if ! as_user true 2>/dev/null; then
    say "Root may not become another user here (SETUID and SETGID are dropped): run the container with --user $uid:$gid"
    exit 2
  fi
  ! setpriv "${identity[@]}" --bounding-set=-all true 2>/dev/null || identity+=(--bounding-set=-all)
  owner=$uid:$gid
}

hand_over() { # what is root's, of the volume's folder itself and of the four in it that are WakeGate's
  local place said
  for place in "$data" "$data"/{logs,keys,state,models}; do
    if [[ ! -d $place ]] || can_write "$place"; then continue; fi
    if [[ $place == "$data" ]]; then
      said=$(chown -- "$owner" "$place" 2>&1)
    elif [[ ! -L $place ]]; then
      said=$(chown -hR --from=0 -- "$owner" "$place" 2>&1) # the folder itself comes last: cut short, it is done again
    fi || say "Cannot give $place to user $owner: ${said%%$'\n'*}"
  done
}

leave_root() { # COMMAND…: does not return
  choose_user
  if [[ -n $data ]]; then
    [[ -e $data ]] || mkdir -p -- "$data" 2>/dev/null
    hand_over
    can_write "$data" || say "$data cannot be written by user $owner: what is kept there needs another DATA_DIR"
  fi
  # Compilers of kernels keep their work there. Where it cannot be given away (a read-only root), they do without.
  [[ ! -d $home ]] || chown -- "${owner%:*}" "$home" 2>/dev/null
  exec setpriv "${identity[@]}" -- "$@"
}

become() { # COMMAND…
  find_data
  ((EUID)) || leave_root "$@"
  if [[ -d $data && ! -w $data ]]; then
    say "$data cannot be written by user $EUID: give it to that user (Kubernetes: fsGroup), or let the container start as root"
  fi
  exec "$@"
}

main() { # WORD…
  if [[ ${0##*/} == wakegate ]]; then
    become "$opt/bin/wakegate" "$@"
  elif (($# == 0)) || [[ $1 == -* ]]; then
    become "$opt/start.sh" "$@"
  fi
  case $1 in
    bash | sh | python | python3 | wakegate | */*) exec "$@" ;;
    *) become "$opt/bin/wakegate" "$@" ;;
  esac
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@" # sourced by tests/deploy/test_dockerfile.py
