"""Releases: what is in an image, signed, attested and compared."""
