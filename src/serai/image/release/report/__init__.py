"""The report of a release, for people."""
