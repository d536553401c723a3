#!/usr/bin/env bash
# Prints the path of a Chromium for the tests of web pages, `make test-browser`. Where there is none it installs Debian's
# as root, and else says what to type. Not among the tools that ./test.sh installs: it takes 400 MB.
set -uo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1
root=$PWD
# shellcheck source=scripts/setup.sh
source "$root/scripts/setup.sh"

find_browser() { type -P chromium || type -P chromium-browser || type -P google-chrome; }

find_browser && exit 0
{
  open_log
  need "The tests of web pages need a Chromium" chromium
  close_log
} >&2
find_browser
