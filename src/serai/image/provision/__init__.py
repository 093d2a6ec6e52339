"""The roles on VMs that already run."""
