"""A server of the Model Context Protocol, on a host. No VM has it: it needs the package ``mcp``."""
