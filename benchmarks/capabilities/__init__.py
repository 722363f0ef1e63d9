"""What steering costs in capabilities, measured by lm-evaluation-harness."""
