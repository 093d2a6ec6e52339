"""The control socket: its JSON-RPC methods."""
