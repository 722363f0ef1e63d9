"""AxBench: how well methods steer towards many concepts, by rated answers (arXiv 2501.17148)."""
