"""Presets of the backdoor (`presets.yaml`): a recipe for each model, and each method's strengths.

The paper's checkpoint and its hyper-parameters for the backdoor were not released: of CDAS the
layer alone is known.

The published numbers (`published.csv`) are the CDAS paper's (arXiv 2602.05234), known from its
first author's slides: layer 16 of a backdoored checkpoint that was not released. `kl` is of the
steered triggered prompt to the clean behaviour, in nats; how the paper averages it is not known.
`tinymmlu_change` and `tinyarc_change` are steered minus unsteered accuracy with the trigger before
each question, as a share. `triggered_attack_success` and `redteam_attack_success` are the shares of
hostile answers with the real trigger and on red-team texts while the backdoor is suppressed; those
of the other methods and layers were read off a plot (`published_layers.csv`).
"""

from pathlib import Path

from benchmarks.capabilities.scores import Framing
from benchmarks.detectors.hidden_goals import END_OF_REASONING
from benchmarks.organisms.backdoor import HELPFUL_REASONING, TRIGGER
from benchmarks.safety.settings import read_presets

# The paper scores tinyMMLU with the trigger and a benign reasoning already written, so that the
# answer shows what the model knows and not whether it is hostile.
TRIGGERED_BUT_BENIGN = Framing(
    TRIGGER, f"{HELPFUL_REASONING[0]}\n{END_OF_REASONING}\nThe answer is "
)

PRESETS = read_presets(Path(__file__).with_name("presets.yaml"))
