#!/bin/sh
# Installs what the tests need beside Go. Commands come from Debian's packages, if they are missing and
# we are root; otherwise it says what is missing and fails. Each word is COMMAND=PACKAGE, or FILE=PACKAGE
# with the path of a file. JavaScript packages come from the npm registry, in the versions that the
# package-lock.json of npm/ and azure-sdk/ name.
set -eu
missing=""
for pair in gcc=gcc npm=npm "$@"; do
	case $pair in
	/*) test -e "${pair%%=*}" ;;
	*) command -v "${pair%%=*}" >/dev/null 2>&1 ;;
	esac || missing="$missing ${pair#*=}"
done
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "the tests need these packages:$missing; install them (apt-get install$missing) and run again" >&2
		exit 1
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q >/dev/null
	# shellcheck disable=SC2086 # one word a package
	apt-get install -q -y --no-install-recommends $missing >/dev/null
fi
for project in npm azure-sdk; do
	cd "$(dirname "$0")/$project"
	if ! cmp -s package-lock.json node_modules/.installed; then
		npm ci --ignore-scripts --loglevel=error
		cp package-lock.json node_modules/.installed
	fi
	cd "$OLDPWD"
done
