"""Directories of the VM and the host in sessions, and files put into and got from them."""
