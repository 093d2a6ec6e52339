"""A sandbox, and how payloads get into it: bubblewrap, filters, namespaces, cgroups."""
