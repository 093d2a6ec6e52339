#!/bin/sh
# mmdebstrap's customize hook, once all packages are installed: finish.sh ROOT
set -eu
root=$1
here=$(dirname "$0")
cp -R --no-preserve=ownership,mode "$here/tree/." "$root/"

rm -f "$root"/etc/ssh/ssh_host_*
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
echo localhost > "$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' > "$root/etc/hosts"

systemctl() { chroot "$root" systemctl "$@"; }
systemctl --quiet enable systemd-networkd.service systemd-resolved.service
# A machine that lives for one task has no use for these, and they take the boot's time.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
	e2scrub_reap.service; do
	systemctl --quiet disable "$unit"
done

# Once, now that all is there; packages' own attempts were turned off by INITRD=No.
chroot "$root" update-initramfs -c -k all
# What tells of the build host, and of the moment.
rm -f "$root/var/lib/dbus/machine-id" "$root/var/log/bootstrap.log" \
	"$root/etc/.resolv.conf.systemd-resolved.bak"
