"""A booted disk under QEMU: its options, firmware, seed, shares, and ssh into it."""
