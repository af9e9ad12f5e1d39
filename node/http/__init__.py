"""The HTTP surface: the OpenAI API for applications, health and state for operators."""
