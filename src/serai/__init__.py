"""Serai: virtual-machine images with rooms in which coding agents cannot see each other."""

__version__ = "0.1.0"
