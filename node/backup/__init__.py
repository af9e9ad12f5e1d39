"""Backups of everything that a node cannot make anew: one file, whole or not there at all."""
