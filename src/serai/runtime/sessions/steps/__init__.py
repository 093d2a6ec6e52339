"""What the steps between states do: homes, users, published files, attached directories."""
