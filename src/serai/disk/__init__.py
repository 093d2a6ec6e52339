"""The disk for /sessions, prepared at each boot before it is mounted."""
