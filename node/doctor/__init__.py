"""What is right and wrong on this machine for a node: each check really tries one thing."""
