"""The audit log: how it is chained, written and checked."""
