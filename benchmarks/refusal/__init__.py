"""Refusal: how well a vector takes it away from harmful requests, or adds it to harmless ones."""
