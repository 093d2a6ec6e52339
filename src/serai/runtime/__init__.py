"""In the VM: sessions, each a Linux user with a sandbox of its own."""
