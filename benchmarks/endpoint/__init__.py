"""Asking a model behind an OpenAI-compatible endpoint, at a known cost and only once."""
