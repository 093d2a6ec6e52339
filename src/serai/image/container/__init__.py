"""A provisioned machine in a container (systemd-nspawn), at native speed."""
