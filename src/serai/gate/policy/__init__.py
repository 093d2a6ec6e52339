"""What a policy is made of, and how it decides. Pure: no input or output."""
