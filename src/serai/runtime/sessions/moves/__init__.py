"""Sessions that come and go as exports, to and from other VMs, and out of a backup."""
