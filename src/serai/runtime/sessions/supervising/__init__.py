"""What supervises sessions: systemd, and what answers the kernel about refused calls."""
