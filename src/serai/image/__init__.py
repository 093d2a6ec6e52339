"""Build host: definition, base, build, boot and verification of images."""
