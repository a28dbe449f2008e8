#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# For make: packaging/install.sh install|uninstall, in the top directory. PREFIX says where things are used, and DESTDIR what
# comes before that while they are put there.
set -euo pipefail
shopt -s nullglob

SBINDIR=$PREFIX/sbin
LIBDIR=$PREFIX/lib/xdp-lb
UNITDIR=${UNITDIR:-$PREFIX/lib/systemd/system}
DOCDIR=$PREFIX/share/doc/xdp-lb
CONFDIR=/etc/xdp-lb
# Nobody else's, so they go if they are empty; the last first.
OWN=("$CONFDIR" "$DOCDIR" "$DOCDIR/docs" "$DOCDIR/examples" "$LIBDIR" "$LIBDIR/lib" "$LIBDIR/netns")

# MODE SOURCE TARGET of each file.
files() {
	local file
	echo "755 lb.sh $LIBDIR/lb.sh"
	echo "755 packaging/unit-stop $LIBDIR/unit-stop"
	echo "644 packaging/completion.bash $PREFIX/share/bash-completion/completions/xdp-lb"
	echo "644 packaging/example.conf $DOCDIR/examples/eth0.conf"
	echo "644 lib/xdp-lb.8 $PREFIX/share/man/man8/xdp-lb.8"
	for file in xdp_lb.o netns/xdp_pass.o lib/*; do echo "644 $file $LIBDIR/$file"; done
	for file in README.md docs/*; do echo "644 $file $DOCDIR/$file"; done
	for file in packaging/*.service packaging/*.timer; do echo "644 $file $UNITDIR/${file##*/}"; done
}

# Units, and what they run, are told where things are. The rest is as it is.
fill_in() { # SOURCE
	case $1 in
	packaging/unit-stop | *.service)
		sed -e '/^@HARDENING@$/ { r packaging/hardening.conf
			d }' -e "s|@SBINDIR@|$SBINDIR|g; s|@LIBDIR@|$LIBDIR|g" "$1"
		;;
	*) cat "$1" ;;
	esac
}

# -D makes directories. lb.sh finds the rest of itself through the link.
install_all() {
	local mode source target
	install -d "${OWN[@]/#/$DESTDIR}"
	while read -r mode source target; do
		fill_in "$source" | install -D -m "$mode" /dev/stdin "$DESTDIR$target"
	done < <(files)
	install -d "$DESTDIR$SBINDIR"
	ln -sf ../lib/xdp-lb/lb.sh "$DESTDIR$SBINDIR/xdp-lb"
}

uninstall_all() {
	local i target
	rm -f "$DESTDIR$SBINDIR/xdp-lb"
	while read -r _ _ target; do rm -f "$DESTDIR$target"; done < <(files)
	for ((i = ${#OWN[@]} - 1; i >= 0; i--)); do
		[[ ! -d $DESTDIR${OWN[i]} ]] || rmdir --ignore-fail-on-non-empty "$DESTDIR${OWN[i]}"
	done
}

"${1}_all"
