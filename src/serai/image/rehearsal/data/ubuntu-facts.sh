#!/bin/sh
# Run as root in a VM: prints what the roles and their rehearsal assume of it. The arguments are the
# packages that the roles install there.
show() {
	printf '\n$ %s\n' "$1"
	sh -c "$1" 2>&1
}

show 'cat /etc/os-release; uname -a; cat /proc/cmdline'
show 'lsblk -f; findmnt --real'
show 'dpkg-query -W systemd util-linux bubblewrap python3 libseccomp2 netplan.io cloud-init apt'
show 'head -n 100 /etc/netplan/* /etc/apt/sources.list /etc/apt/sources.list.d/*'
show 'head -n 100 /etc/ssh/sshd_config.d/* /etc/default/grub.d/*'
show 'ls -l /etc/apt/preferences.d /etc/needrestart/conf.d /etc/cloud/cloud.cfg.d'
show 'cat /run/cloud-init/result.json; cloud-init status --long'
show 'snap list; dpkg-query -W snapd ubuntu-server lxd-installer apport whoopsie'
show 'systemctl list-unit-files --state=enabled,masked --no-pager'
show 'systemd-analyze; systemd-analyze blame --no-pager | head -n 20; systemctl --failed --no-pager'
show 'grep -r . /sys/fs/cgroup/cgroup.controllers /proc/sys/kernel/core_pattern'
show 'sysctl kernel.apparmor_restrict_unprivileged_userns user.max_user_namespaces'
# shellcheck disable=SC2016  # the shell that shows it expands it
show 'find /lib/modules/$(uname -r) -name "9p*" -o -name "quota_v2*" -o -name "*virtiofs*"'
show 'bwrap --help 2>&1 | grep -E -e "--(size|bind-fd|disable-userns|perms)"'
show 'sshd -t && sshd -T | grep -E "^(passwordauthentication|permitrootlogin|listenaddress)"'
show 'systemd-analyze verify serai-sessiond.service serai-gate.service serai-session@one.service'
# Candidate and component of every name.
show "apt-get -qq update; apt-cache policy $*"
