"""Sessions: states, the steps between them, and what they consist of."""
