"""`invoke scale`: what a fleet's NATS servers have to carry, measured small and computed large."""
