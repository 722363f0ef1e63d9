"""Measurements of a vector without a judge, and their intervals."""
