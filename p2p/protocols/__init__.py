"""Protocols that nodes speak with each other."""
