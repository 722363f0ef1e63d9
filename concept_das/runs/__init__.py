"""Finished work on disk: files written whole, rows, stages, and the share of a process."""
