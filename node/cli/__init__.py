"""The command line: each file one command or group. Heavy imports stay inside the functions."""
