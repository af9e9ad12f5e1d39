"""Vectors of texts: a worker process with a model of sentence-transformers, and who may use it."""
