"""`python -m concept_das.cli`, the same as `concept-das`."""

import sys

from concept_das.cli import main

if __name__ == "__main__":
    sys.exit(main())
