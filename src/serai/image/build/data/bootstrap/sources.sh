#!/bin/sh
# mmdebstrap's setup hook where the build has a mirror: sources.sh ROOT SUITE MIRROR [SECURITY]
# mmdebstrap has written the sources that it would choose itself. An image gets those back when it is
# sealed, so they are kept. The build installs from MIRROR: the suite and its updates, and from
# SECURITY the security updates, with the options (signed-by) of the first line. A MIRROR that is a
# whole line says all there is.
set -eu
list=$1/etc/apt/sources.list suite=$2 mirror=$3 security=${4:-}
cp "$list" "$list.shipped"
case $mirror in
"deb "*)
	printf '%s\n' "$mirror" > "$list"
	exit
	;;
esac
first=$(grep "^deb .* $suite " "$list" | head -n 1)
line() {
	printf '%s\n' "$first" | sed "s| [^ ]* $suite | $1 $2 |"
}
{
	line "$mirror" "$suite"
	line "$mirror" "$suite-updates"
	[ -z "$security" ] || line "$security" "$suite-security"
} > "$list"
