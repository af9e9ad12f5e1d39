"""What the documentation claims, measured: `python -m benchmarks.kernel --json` and others."""
