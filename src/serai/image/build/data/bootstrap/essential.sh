#!/bin/sh
# mmdebstrap's essential hook, once the essential packages are installed: essential.sh ROOT
set -eu
root=$1
# openssh-server makes host keys unless there are some; a base must have none, and RSA is slow.
mkdir -p "$root/etc/ssh"
for type in rsa ecdsa ed25519; do
	: > "$root/etc/ssh/ssh_host_${type}_key"
done
# The ESP is written outside, and firmware variables are not the image's to change; an upgrade of
# GRUB inside the image renews the loader that firmware finds without variables.
chroot "$root" debconf-set-selections <<EOF
grub-efi-amd64 grub2/force_efi_extra_removable boolean true
grub-efi-amd64 grub2/update_nvram boolean false
grub-efi-arm64 grub2/force_efi_extra_removable boolean true
grub-efi-arm64 grub2/update_nvram boolean false
EOF
