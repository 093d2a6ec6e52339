"""Sessions as files: what an export is, how it is written and read, and a backup's own part."""
