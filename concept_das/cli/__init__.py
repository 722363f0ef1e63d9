"""The command line."""

from concept_das.cli.parser import main

__all__ = ["main"]
