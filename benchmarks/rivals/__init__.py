"""The engines of others: how they are installed and given our models."""
