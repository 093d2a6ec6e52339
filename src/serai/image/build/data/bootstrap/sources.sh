#!/bin/sh
# mmdebstrap's setup hook where the mirror is not its own choice: sources.sh ROOT SUITE [SECURITY]
# It knows the suite of that mirror alone. Here come the suite's updates from the same mirror, and
# the security updates from the mirror SECURITY, with the options (signed-by) that the first has.
set -eu
list=$1/etc/apt/sources.list suite=$2 security=${3:-}
first=$(grep "^deb .* $suite " "$list" | head -n 1)
printf '%s\n' "$first" | sed "s| $suite | $suite-updates |" >> "$list"
[ -z "$security" ] ||
	printf '%s\n' "$first" | sed "s| [^ ]* $suite | $security $suite-security |" >> "$list"
