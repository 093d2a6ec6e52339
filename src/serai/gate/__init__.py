"""The gate: egress by name, in the VM."""
