"""Where TLS is ended and how, and the keys and certificates for it."""
