#!/usr/bin/env bash
# Fetches Exim and OpenSMTPD from Debian into .tools/peers, each into a small
# root directory of its own with the libraries it needs, so that they can be
# started with chroot. Nothing is installed: as packages they would push Postfix
# out. May be run as often as one likes; does nothing when both are there.
set -euo pipefail
cd "$(dirname "$0")/../.."
peers=$PWD/.tools/peers

say() { echo "peers: $*" >&2; }

# program:packages that a minimal Debian may lack, the program's own first.
exim="exim4-daemon-light libgnutls-dane0 libgnutls30 libidn2-0 libunbound8 libevent-2.1-7 libnsl2 libtirpc3 libidn12 libpcre2-8-0 libdb5.3 libhogweed6 libnettle8 libtasn1-6 libp11-kit0 libunistring2"
opensmtpd="opensmtpd libevent-2.1-7 libpam0g libdb5.3 libssl3"

fetch() {
	local name=$1 program=$2
	shift 2
	local root=$peers/$name
	[ -e "$root/ready" ] && return
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { say "needs Debian's apt-get and dpkg-deb"; exit 1; }
	say "fetching $name"
	rm -rf "$root"
	mkdir -p "$root" "$peers/debs"
	(
		cd "$peers/debs"
		apt-get -qq download "$@" 2>"$peers/log" || { apt-get -qq update && apt-get -qq download "$@"; } 2>"$peers/log" || { cat "$peers/log" >&2; exit 1; }
		for package in "$@"; do
			for deb in "${package}"_*.deb; do dpkg-deb -x "$deb" "$root"; done
		done
	)
	# Libraries in the directories that Debian's merged /usr has.
	for dir in lib bin sbin; do
		if [ -d "$root/$dir" ] && [ ! -L "$root/$dir" ]; then
			mkdir -p "$root/usr/$dir"
			cp -a "$root/$dir/." "$root/usr/$dir/"
			rm -rf "${root:?}/$dir"
		fi
		[ -e "$root/$dir" ] || ln -s "usr/$dir" "$root/$dir"
	done
	mkdir -p "$root"/{usr/lib64,etc,dev,tmp,run,var/log,var/mail}
	[ -e "$root/lib64" ] || ln -s usr/lib64 "$root/lib64"
	chmod 1777 "$root/tmp"

	# The rest of the libraries comes from this machine.
	local libs=$root/usr/lib/$(uname -m)-linux-gnu
	local all
	all=$(find "$root/usr/sbin" "$root/usr/libexec" -type f -perm -100 2>/dev/null || true)
	for binary in $all; do
		LD_LIBRARY_PATH=$libs ldd "$binary" 2>/dev/null | grep -oE '/[^ ]+\.so[^ ]*' | sort -u | while read -r lib; do
			[[ $lib == "$root"* ]] && continue
			mkdir -p "$root$(dirname "$lib")"
			cp -nL "$lib" "$root$lib"
		done
	done
	cp -L /lib64/ld-linux-x86-64.so.2 "$root/usr/lib64/" 2>/dev/null || true
	[ -e "$root/dev/null" ] || mknod -m 666 "$root/dev/null" c 1 3
	[ -e "$root/dev/urandom" ] || mknod -m 666 "$root/dev/urandom" c 1 9
	cp /etc/services /etc/protocols "$root/etc/" 2>/dev/null || true
	printf 'hosts: files\n' >"$root/etc/nsswitch.conf"
	printf '127.0.0.1 localhost %s.peer.test\n' "$name" >"$root/etc/hosts"
	printf 'root:x:0:0::/:/bin/false\npeer:x:901:901::/:/bin/false\nqueue:x:902:902::/:/bin/false\nDebian-exim:x:901:901::/:/bin/false\nopensmtpd:x:901:901::/var/empty:/bin/false\nopensmtpq:x:902:902::/var/empty:/bin/false\n' >"$root/etc/passwd"
	printf 'root:x:0:\nmail:x:8:\nDebian-exim:x:901:\nopensmtpd:x:901:\nopensmtpq:x:902:\n' >"$root/etc/group"
	mkdir -p "$root/var/empty" "$root/var/lib/opensmtpd/empty" "$root/var/spool"
	[ -e "$root/var/run" ] || ln -s ../run "$root/var/run"
	# Both say their version, each in answer to something else, and end with
	# some status: what counts is that they start.
	{ chroot "$root" "$program" -bV || chroot "$root" "$program" -h; } >"$peers/log" 2>&1 || true
	grep -qi version "$peers/log" || { cat "$peers/log" >&2; exit 1; }
	touch "$root/ready"
}

[ "$(id -u)" = 0 ] || { say "please run as root: the servers change their users and their root"; exit 1; }
fetch exim /usr/sbin/exim4 $exim
fetch opensmtpd /usr/sbin/smtpd $opensmtpd
