"""Programs that are sent into a VM or container and run there on the standard library."""
