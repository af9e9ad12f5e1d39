"""Configuration: one schema, several sources, one answer to where a value came from."""
