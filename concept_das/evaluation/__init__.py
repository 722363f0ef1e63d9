"""Measure a vector without a judge."""
