"""The roles on machines that already run."""
