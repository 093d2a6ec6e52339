"""What all parts of Serai use: it knows where things lie, but not how they work."""
