"""Published numbers on refusal, to stand beside measured ones.

From the CDAS paper (arXiv 2602.05234), taken from public summaries of its tables; the rows of its
other baselines were not in them.
"""

from dataclasses import asdict, dataclass

import pandas as pd

PAPER = "CDAS paper"


@dataclass(frozen=True)
class PublishedRefusal:
    """One row.

    Attributes:
        model: the preset's `published`.
        method: this project's name of the method.
        suppression: share of harmful prompts that are not refused.
        kl_suppression: as measured here, in nats.
        mmlu_change: steered minus unsteered accuracy, as a share; None if not known.
    """

    model: str
    method: str
    suppression: float
    kl_suppression: float
    mmlu_change: float | None = None
    source: str = PAPER


PUBLISHED: tuple[PublishedRefusal, ...] = (
    PublishedRefusal("phi-3.5-mini", "cdas", 0.30, 4.67),
    PublishedRefusal("phi-3.5-mini", "reps", 0.84, 13.79),
    PublishedRefusal("llama-3.1-8b", "cdas", 0.91, 4.26, 0.0020),
    PublishedRefusal("llama-3.1-8b", "reps", 0.80, 7.47, -0.3557),
    PublishedRefusal("llama-3.1-70b", "cdas", 0.84, 3.72),
    PublishedRefusal("llama-3.1-70b", "reps", 0.75, 12.91),
)


def published(model: str | None) -> pd.DataFrame:
    """The rows of a model; all of them if None."""
    rows = [asdict(row) for row in PUBLISHED if model in (None, row.model)]
    return pd.DataFrame(rows)
