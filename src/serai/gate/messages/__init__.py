"""What the gate reads from its clients and servers and writes to them. Pure: no input or output."""
