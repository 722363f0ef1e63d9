"""The paper's tables: the commands that make each, and its numbers beside the published ones."""
