"""Supervised actors; one folder or file each. They never import one another."""
