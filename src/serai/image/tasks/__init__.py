"""Invoke's tasks: they parse arguments, the other rooms do the work. `invoke --list` shows them."""
