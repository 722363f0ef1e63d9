"""Published numbers on refusal (`published.csv`), to stand beside measured ones.

From the CDAS paper (arXiv 2602.05234), taken from public summaries of its tables; the rows of its
other baselines were not in them. `suppression` is the share of harmful prompts that are not
refused, `kl_suppression` is in nats, as measured here, `mmlu_change` is steered minus unsteered
accuracy as a share.
"""

from pathlib import Path

import pandas as pd


def published(model: str | None) -> pd.DataFrame:
    """The rows of a preset's `published`; all of them if None."""
    table = pd.read_csv(Path(__file__).with_name("published.csv"))
    return table if model is None else table[table["model"] == model].reset_index(drop=True)
