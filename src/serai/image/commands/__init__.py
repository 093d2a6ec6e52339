"""What `invoke` offers besides builds: listings, linters, tests, generated pages."""
