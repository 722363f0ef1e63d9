"""Presets of refusal (`presets.yaml`): a recipe for each model, and each method's strengths.

The published numbers (`published.csv`) are the CDAS paper's (arXiv 2602.05234), known from its
first author's slides, which have no other methods; the release has configurations of Lang. and BiPO
for refusal, but their numbers are not public. `suppression` is the share of harmful prompts that
are not refused, `elicitation` that of harmless ones that are, `harmonic_mean` is of these two,
`kl_suppression` is in nats, as measured here, and `mmlu_change` and `truthfulqa_change` are steered
minus unsteered accuracy as a share.
"""

from pathlib import Path

from benchmarks.safety.settings import read_presets

PRESETS = read_presets(Path(__file__).with_name("presets.yaml"))
