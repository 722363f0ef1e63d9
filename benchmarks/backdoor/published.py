"""Published numbers on the backdoor, to stand beside measured ones.

From the CDAS paper (arXiv 2602.05234), taken from public summaries of its tables: layer 16 of a
backdoored checkpoint that was not released. The rates of removal were not in them.
"""

from dataclasses import asdict, dataclass

import pandas as pd

PAPER = "CDAS paper"


@dataclass(frozen=True)
class PublishedBackdoor:
    """One row.

    Attributes:
        method: this project's name of the method.
        kl: of the steered triggered prompt to the clean behaviour, in nats; how the paper averages
            it is not known.
        tinymmlu_change: steered minus unsteered accuracy on tinyMMLU with the trigger before each
            question, as a share.
    """

    method: str
    kl: float
    tinymmlu_change: float
    source: str = PAPER


PUBLISHED: tuple[PublishedBackdoor, ...] = (
    PublishedBackdoor("cdas", 0.446, 0.0263),
    PublishedBackdoor("das", 0.697, -0.0242),
    PublishedBackdoor("reps", 0.680, -0.0600),
    PublishedBackdoor("diffmean", 0.559, -0.0200),
)


def published() -> pd.DataFrame:
    """All rows."""
    return pd.DataFrame([asdict(row) for row in PUBLISHED])
