#!/bin/sh
# Lets the build host's own programs stand in for a foreign root's where what they do does not
# depend on the architecture: emulated, they are what a bootstrap spends most of its time in.
#
#   standins.sh on ROOT TRIPLET     before anything is configured; TRIPLET is the build host's
#   standins.sh off ROOT TRIPLET    afterwards
#
# dpkg itself keeps them in place: it unpacks a diverted file under its other name (dpkg-divert(1)),
# and "off" moves that to where it belongs. Only the host's libraries are mounted, read-only.
# Left out are programs that tell the architecture (uname, arch, dpkg) and those that are copied
# into the initramfs.
set -eu
verb=$1 root=$2 triplet=$3
suffix=.foreign
libraries=usr/lib/$triplet
case $triplet in
x86_64-*) loader=lib64/ld-linux-x86-64.so.2 ;;
aarch64-*) loader=lib/ld-linux-aarch64.so.1 ;;
esac

# Names in /usr/bin and /usr/sbin. A name the host does not have stays emulated; so do Python and
# Perl of another version, as their names tell: scripts of the root ask for its own modules.
programs() {
	dpkg-query --listfiles bash coreutils cpio dash debianutils diffutils findutils grep gzip \
		hostname mawk openssl perl-base sed tar xz-utils zstd 2> /dev/null |
		sed -n 's|^\(/usr\)*\(/s*bin/[^/]*\)$|/usr\2|p'
	printf '/usr/bin/%s\n' dpkg-deb dpkg-split update-alternatives
	find /usr/bin -name 'python3.[0-9]*' -not -name '*-*'
}

is_program() {
	[ -f "$1" ] && [ ! -L "$1" ] && [ "$(head -c 4 "$1" | tail -c 3)" = ELF ]
}

case $verb in
on)
	mkdir -p "$root/$libraries" "$root/usr/$(dirname "$loader")" "$root/var/lib/dpkg"
	[ -e "$root/$(dirname "$loader")" ] || ln -s "usr/$(dirname "$loader")" "$root/$(dirname "$loader")"
	mount --bind "/$libraries" "$root/$libraries"
	mount -o remount,bind,ro "$root/$libraries"
	ln -s "/$libraries/$(basename "$loader")" "$root/$loader"
	other=/usr/bin/perl
	for program in /usr/bin/perl5.*; do
		[ ! -e "$root$program" ] || other=
	done
	for program in $(programs | sort -u | grep -v -x -e /usr/bin/arch -e /usr/bin/uname); do
		[ -z "$other" ] || [ "${program#"$other"}" = "$program" ] || continue
		is_program "$program" || continue
		[ ! -e "$root$program" ] || mv "$root$program" "$root$program$suffix"
		cp "$program" "$root$program"
		# Packages name a file with /usr or without.
		for name in "$program" "${program#/usr}"; do
			printf '%s\n%s\n:\n' "$name" "$name$suffix"
		done
	done > "$root/var/lib/dpkg/diversions"
	# usr-is-merged removes a /lib64 that dpkg knows nothing of. From Debian 13 on base-files makes
	# this very diversion, and refuses another one.
	printf '%s\n' /lib64 /.lib64.usr-is-merged base-files >> "$root/var/lib/dpkg/diversions"
	;;
off)
	diversions=$root/var/lib/dpkg/diversions
	sed -n "2~3s|^\(/usr/.*\)$suffix\$|\1|p" "$diversions" | while read -r program; do
		rm "$root$program"
		[ ! -e "$root$program$suffix" ] || mv "$root$program$suffix" "$root$program"
	done
	# Packages have diversions of their own; only ours go.
	theirs=$(grep -c -s '\.usr-is-merged' "$root/var/lib/dpkg/info/base-files.preinst") || theirs=0
	awk -v suffix="$suffix" -v theirs="$theirs" '
		NR % 3 == 1 { from = $0 }
		NR % 3 == 2 { to = $0 }
		NR % 3 == 0 && to != from suffix && (from != "/lib64" || theirs > 0) {
			print from; print to; print
		}
	' "$diversions" > "$diversions.new"
	mv "$diversions.new" "$diversions"
	rm -f "$diversions-old" "$root/$loader"
	if [ "$(dirname "$loader")" = lib64 ] && rmdir "$root/usr/lib64" 2> /dev/null; then
		rm "$root/lib64"
	fi
	umount "$root/$libraries"
	rmdir "$root/$libraries"
	;;
esac
