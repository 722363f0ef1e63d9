"""Steering inside vLLM: a plugin of stock vLLM, and what requests to it look like."""
