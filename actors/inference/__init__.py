"""Inference: admission and text in the daemon, the engine in a worker process."""
