#!/usr/bin/env bash
# Passes the tests from an empty machine: installs what they need (as root also Debian packages), then runs pytest.
#
#   ./test.sh                          all of them
#   ./test.sh -q tests/health -k ping  arguments are pytest's
set -uo pipefail

cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" || exit 1
root=$PWD
# shellcheck source=scripts/setup.sh
source "$root/scripts/setup.sh"

set_up_for_tests
scripts/install_sdks.sh "$venv/bin/python" || exit 1
if [ $# -eq 0 ]; then # all of them: side by side, the tests of one file in one process
  cores=$(nproc)
  set -- --numprocesses "$((cores < 4 ? cores : 4))" --dist loadfile --no-loadscope-reorder # else slow files come last
fi
exec "$venv/bin/python" -m pytest "$@"
