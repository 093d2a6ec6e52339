"""From an allowed name to a connected socket, and bytes from one socket to another."""
