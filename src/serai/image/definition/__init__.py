"""What an image is: definitions, the variables of roles, pins."""
