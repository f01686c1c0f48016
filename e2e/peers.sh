#!/bin/sh
# Installs what the tests need beside Go, from Debian's packages, if it is missing and we are root;
# otherwise says what is missing and fails. Each word is COMMAND=PACKAGE.
set -eu
missing=""
for pair in gcc=gcc "$@"; do
	command -v "${pair%%=*}" >/dev/null 2>&1 || missing="$missing ${pair#*=}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "the tests need these packages:$missing; install them (apt-get install$missing) and run again" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
# shellcheck disable=SC2086 # one word a package
apt-get install -q -y --no-install-recommends $missing >/dev/null
