"""Containers provisioned as an image is (systemd-nspawn), at native speed."""
