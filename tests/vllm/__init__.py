"""Steering in vLLM itself, on SmolLM2 (`make test-vllm`)."""
