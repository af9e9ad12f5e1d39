"""The engine on OpenVINO: exports a model once, then writes answers by its paged attention."""
