"""The chain-of-thought backdoor: how well a vector takes it away."""
