"""What `invoke` offers besides builds: listings, linters, tests, generated pages."""

LAYERS = ("unit", "sandbox", "container", "vm")
"""The layers of the tests, each a directory of tests/."""
