#!/usr/bin/env bash
# Installs what the tests and benchmarks start, and nothing that is there
# already: may be run as often as one likes, and is silent when there is nothing
# to do. Debian or a relative of it; needs root only when something is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

command -v "${GO:-go}" >/dev/null || { say "Go is missing: install Go 1.26 or newer"; exit 1; }

# program or file:package, one a line. Postfix is the peer of the benchmarks and
# the relay of the end-to-end tests; then the clients people use, what docs/reader
# needs, and what the race detector is linked with.
wanted="
/usr/sbin/postfix:postfix
swaks:swaks
mbsync:isync
mutt:mutt
curl:curl
python3:python3
/usr/lib/python3/dist-packages/cryptography:python3-cryptography
zstd:zstd
gcc:gcc
/usr/include/stdlib.h:libc6-dev
"

missing=()
for entry in $wanted; do
	[ -e "${entry%%:*}" ] || PATH="$PATH:/usr/sbin:/sbin" command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
done

if [ ${#missing[@]} -gt 0 ]; then
	command -v apt-get >/dev/null || { say "please install: ${missing[*]}"; exit 1; }
	root=()
	if [ "$(id -u)" != 0 ]; then
		sudo -n true 2>/dev/null || { say "please run as root: apt-get install ${missing[*]}"; exit 1; }
		root=(sudo -n)
	fi
	say "installing ${missing[*]}"

	# Installing Postfix would start it as the machine's mail server. Debian asks
	# policy-rc.d before it starts anything; 101 means no. One that is there
	# already is somebody's decision and comes back afterwards.
	policy=/usr/sbin/policy-rc.d
	kept=$(mktemp)
	had=no
	if [ -e $policy ]; then had=yes; cp -p $policy "$kept"; fi
	restore() {
		if [ "$had" = yes ]; then "${root[@]}" cp -p "$kept" $policy; else "${root[@]}" rm -f $policy; fi
		rm -f "$kept"
	}
	trap restore EXIT
	printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee $policy >/dev/null
	"${root[@]}" chmod 755 $policy

	log=$(mktemp)
	apt() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1; }
	# Postfix asks for a kind of set-up; "No configuration" leaves it unconfigured
	# and unable to run until a test gives it a configuration of its own.
	echo "postfix postfix/main_mailer_type select No configuration" |
		"${root[@]}" env DEBIAN_FRONTEND=noninteractive debconf-set-selections >>"$log" 2>&1
	if ! { apt update && apt install -y --no-install-recommends "${missing[@]}"; }; then
		cat "$log" >&2
		say "could not install ${missing[*]}"
		exit 1
	fi
	rm -f "$log"
fi

"${GO:-go}" mod download
