"""The daemon: composition root, HTTP, command line."""
