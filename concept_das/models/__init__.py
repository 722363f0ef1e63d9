"""Loading a model, telling models apart, and reading its hidden states and logits."""
