"""The node as a service of systemd: what is put where, and what such a service would not reach."""
