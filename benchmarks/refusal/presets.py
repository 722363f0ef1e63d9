"""Presets of refusal (`presets.yaml`): a recipe for each model, and each method's strengths.

The published numbers (`published.csv`) are from the CDAS paper (arXiv 2602.05234), taken from
public summaries of its tables; the rows of its other baselines were not in them. `suppression` is
the share of harmful prompts that are not refused, `kl_suppression` is in nats, as measured here,
`mmlu_change` is steered minus unsteered accuracy as a share.
"""

from pathlib import Path

from benchmarks.safety.settings import read_presets

PRESETS = read_presets(Path(__file__).with_name("presets.yaml"))
