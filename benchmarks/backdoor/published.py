"""Published numbers on the backdoor (`published.csv`), to stand beside measured ones.

From the CDAS paper (arXiv 2602.05234), taken from public summaries of its tables: layer 16 of a
backdoored checkpoint that was not released. The rates of removal were not in them. `kl` is of the
steered triggered prompt to the clean behaviour, in nats; how the paper averages it is not known.
`tinymmlu_change` is steered minus unsteered accuracy on tinyMMLU with the trigger before each
question, as a share.
"""

from pathlib import Path

import pandas as pd


def published() -> pd.DataFrame:
    """All rows."""
    return pd.read_csv(Path(__file__).with_name("published.csv"))
