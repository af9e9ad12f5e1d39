"""R3MES node: serve AI models to the R3MES network, and use the models of others."""

__version__ = "0.1.0"
