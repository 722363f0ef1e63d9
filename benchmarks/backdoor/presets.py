"""What is run on the backdoor, and where each number is from.

The paper's checkpoint and its hyper-parameters for the backdoor were not released: of CDAS the
layer alone is known.
"""

from collections.abc import Iterator

from benchmarks.capabilities.scores import Framing
from benchmarks.detectors.hidden_goals import END_OF_REASONING
from benchmarks.organisms.backdoor import HELPFUL_REASONING, TRIGGER
from benchmarks.safety.settings import (
    ORGANISM_ADDED,
    ORGANISM_RULE_SOURCE,
    Preset,
    axbench_parts,
    clamped_parts,
    reps_part,
)

DEFAULT_METHODS = ("cdas", "diffmean", "das", "reps", "loreft")
PAPER_METHODS = ("cdas", "das", "reps", "diffmean")

# The paper scores tinyMMLU with the trigger and a benign reasoning already written, so that the
# answer shows what the model knows and not whether it is hostile.
TRIGGERED_BUT_BENIGN = Framing(
    TRIGGER, f"{HELPFUL_REASONING[0]}\n{END_OF_REASONING}\nThe answer is "
)

_NOT_RELEASED = "not released"
_REPS = "release, backdoor RePS: batch 8, 8 epochs"


def _presets() -> Iterator[Preset]:
    yield Preset(
        "organism",
        None,
        15,
        "this project: half of SmolLM2's 30 layers",
        (
            *clamped_parts(
                {},
                otherwise=f"{_NOT_RELEASED}; this project: a small model's rate, the release's 20 "
                "epochs of refusal, and rank 4, by which the loss ends at three fifths of rank 1's",
                lr=0.04,
                batch_size=8,
                epochs=20,
                rank=4,
                tokens=48,
                factors=(1.0, 2.0),
                factor_source="this project: the mean of the other kind, and as far beyond",
            ),
            reps_part(
                _REPS,
                factors=(1.0, 2.0, 5.5),
                factor_source="this project: the release's to half the mean in training",
                reported=1.0,
                tokens=48,
            ),
            *axbench_parts(48, budget=(6, 8), diffmean=ORGANISM_ADDED),
        ),
        DEFAULT_METHODS,
        48,
        rule="interpolate",
        rule_source=ORGANISM_RULE_SOURCE,
    )
    yield Preset(
        "checkpoint",
        None,
        16,
        "CDAS paper: layer 16",
        (
            *clamped_parts(
                {},
                otherwise=f"{_NOT_RELEASED}; as refusal/cdas_llama, 20 epochs",
                lr=0.08,
                batch_size=16,
                epochs=20,
                tokens=128,
                factor_source=f"{_NOT_RELEASED}; the unit factor",
            ),
            reps_part(
                _REPS,
                factors=(0.85, 1.7, 3.4),
                factor_source="release, backdoor RePS: 1.7; half and double here",
                reported=1.7,
                tokens=511,
            ),
            *axbench_parts(128),
        ),
        PAPER_METHODS,
        128,
    )


PRESETS: dict[str, Preset] = {preset.name: preset for preset in _presets()}
