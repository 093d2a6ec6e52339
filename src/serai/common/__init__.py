"""What all parts of Serai use: it knows nothing of sessions, the gate or images."""
