#!/bin/sh
# Runs a command where ROOT's foreign programs can run: namespace.sh QEMU MAGIC MASK COMMAND...
# Meant for a mount namespace of its own. The handler is the kernel's, not the namespace's, and
# goes with the last mount of binfmt_misc (kernel, Documentation/admin-guide/binfmt-misc.rst);
# where the build host has registered one already, that one is used.
set -eu
qemu=$1 magic=$2 mask=$3
shift 3
folder=/proc/sys/fs/binfmt_misc
name=$(basename "$qemu" -static)
[ -e "$folder/register" ] || mount -t binfmt_misc binfmt_misc "$folder"
# F: the interpreter is opened now, so that it works inside the root; P: argv[0] is kept; O, C:
# it gets an open file and the file's credentials.
if ! [ -e "$folder/$name" ]; then
	printf ':%s:M::%s:%s:%s:POCF' "$name" "$magic" "$mask" "$qemu" > "$folder/register" ||
		[ -e "$folder/$name" ]
fi
exec "$@"
