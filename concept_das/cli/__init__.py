"""The command line."""

import sys
from collections.abc import Sequence

from concept_das.errors import InputError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; see `concept_das.cli.parser.main`."""
    try:
        from concept_das.cli.parser import main as run
    except InputError as error:  # a part of the package is missing
        print(f"concept-das: {error}", file=sys.stderr)
        return 2
    return run(argv)
