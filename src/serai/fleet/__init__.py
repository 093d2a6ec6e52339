"""Many VMs as one: the member in each VM, and what a client needs. It takes the package nats-py."""
