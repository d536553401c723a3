#!/usr/bin/env bash
# Makes a service of a checkout: its packages, its user, its settings file, its unit. As root, in the checkout; again
# after `git pull`. Starts nothing.
#
#   deploy/systemd/install.sh                 the checkout is /opt/wakegate, as the unit has it
#   DESTDIR=/some/root deploy/systemd/install.sh   the files only, below that folder (packages, tests)
set -euo pipefail

root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/../.." && pwd)
here=$root/deploy/systemd
destination=${DESTDIR:-}

if [[ -z $destination ]]; then
  if ((EUID)); then
    echo "[install] This needs root: sudo $0" >&2
    exit 2
  fi
  if [[ $root != /opt/wakegate ]]; then
    echo "[install] The unit runs /opt/wakegate, and this checkout is $root: clone to /opt/wakegate" >&2
    exit 2
  fi
  # The settings file, if it is there already, decides what is installed.
  [[ ! -r /etc/wakegate/wakegate.env ]] || export WAKEGATE_ENV_FILE=/etc/wakegate/wakegate.env
  # shellcheck source=scripts/setup.sh
  source "$root/scripts/setup.sh"
  read_files
  setting MODEL MODEL_NAME MODEL_PATH MODEL_REPO || export MODEL=later.gguf # no demo model: a service is given a real one
  known_python || ensure_python
  set_up_for_start
fi

install -D -m 0644 "$here/wakegate.service" "$destination/etc/systemd/system/wakegate.service"
install -D -m 0644 "$here/wakegate.sysusers" "$destination/usr/lib/sysusers.d/wakegate.conf"
install -d -m 0755 "$destination/etc/wakegate"
settings=$destination/etc/wakegate/wakegate.env
[[ -e $settings ]] || install -m 0600 "$here/wakegate.env.example" "$settings"

if [[ -z $destination ]]; then
  systemd-sysusers wakegate.conf
  systemctl daemon-reload
  echo "[install] Name a model in $settings, then: systemctl enable --now wakegate"
fi
