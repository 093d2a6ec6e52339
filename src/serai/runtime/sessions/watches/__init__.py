"""What sessiond looks at again and again: the disk, idle sessions, limits that are met, sockets."""
