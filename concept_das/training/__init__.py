"""The training loop, its two engines, and what they keep."""
