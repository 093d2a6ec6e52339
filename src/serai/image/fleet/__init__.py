"""A fleet from a build host: keys, its NATS servers' configuration, and containers to try one."""
