"""The cost of steering in capabilities, measured by lm-evaluation-harness."""
