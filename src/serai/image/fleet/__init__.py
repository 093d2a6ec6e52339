"""What a fleet's operator makes on a build host: keys, and the configuration of NATS servers."""
