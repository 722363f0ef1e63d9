"""Vectors and other artifacts, and how they steer a model."""
