"""Keep finished work on disk, and divide work among processes."""
