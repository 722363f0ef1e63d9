"""What is run on refusal for a model, and where each number is from.

`release` is the authors' repository (colored-dye/concept_das); the path after it is a
configuration's. Its output length of 768 counts a begin-of-text token and is 767 here; the data's
outputs are a few tokens, so that it cuts nothing.
"""

from collections.abc import Iterator

from benchmarks.safety.settings import (
    ORGANISM_ADDED,
    ORGANISM_RULE_SOURCE,
    Part,
    Preset,
    axbench_parts,
    clamped_parts,
    reps_part,
)

DEFAULT_METHODS = ("cdas", "diffmean", "das", "reps", "loreft")
PAPER_METHODS = ("cdas", "das", "reps", "diffmean")

_TOKENS = 767
_NEW_TOKENS = 128  # release: greedy, 128 new tokens


def _paper(
    name: str,
    model: str,
    layer: int,
    layer_source: str,
    clamped: list[Part],
    reps_factor: float,
    load_in_4bit: bool = False,
) -> Preset:
    chosen = f"release: {reps_factor:g} chosen for this model from 0.4 to 2.8; half and double here"
    reps = reps_part(
        "release, refusal RePS: batch 8, 8 epochs",
        factors=(reps_factor / 2, reps_factor, 2 * reps_factor),
        factor_source=chosen,
        reported=reps_factor,
        tokens=511,
    )
    return Preset(
        name,
        model,
        layer,
        layer_source,
        (*clamped, reps, *axbench_parts(_TOKENS)),
        PAPER_METHODS,
        _NEW_TOKENS,
        published=name,
        load_in_4bit=load_in_4bit,
    )


def _presets() -> Iterator[Preset]:
    own = "this project: half of Phi-3.5's epochs at twice the rate, for a small model"
    yield Preset(
        "organism",
        None,
        15,
        "this project: half of SmolLM2's 30 layers",
        (
            *clamped_parts(
                {},
                otherwise=own,
                lr=0.04,
                batch_size=16,
                epochs=10,
                tokens=16,
                factors=(1.0, 2.0),
                factor_source="this project: the mean of the other kind, and as far beyond",
            ),
            reps_part(
                "release, refusal RePS: batch 8, 8 epochs",
                factors=(1.0, 2.0, 5.5),
                factor_source="this project: the release's to half the mean in training",
                reported=1.0,
                tokens=16,
            ),
            *axbench_parts(16, budget=(5, 16), diffmean=ORGANISM_ADDED),
        ),
        DEFAULT_METHODS,
        24,
        rule="interpolate",
        rule_source=ORGANISM_RULE_SOURCE,
    )
    phi = {name: f"release, refusal/{name}_phi" for name in ("cdas", "das", "pdas")}
    yield _paper(
        "phi-3.5-mini",
        "microsoft/Phi-3.5-mini-instruct",
        16,
        "release, refusal/cdas_phi",
        clamped_parts(
            phi, lr=0.02, batch_size=16, epochs=20, tokens=_TOKENS, factor_source="release: 1"
        ),
        1.6,
    )
    llama = {name: f"release, refusal/{name}_llama" for name in ("cdas", "das")}
    llama["pdas"] = "release, refusal/pdas_llama, which has 20 epochs; as CDAS here"
    parts = clamped_parts(
        llama, lr=0.08, batch_size=16, epochs=50, tokens=_TOKENS, factor_source="release: 1"
    )
    yield _paper(
        "llama-3.1-8b",
        "meta-llama/Llama-3.1-8B-Instruct",
        12,
        "release's script; refusal/cdas_llama itself says 16",
        parts,
        1.3,
    )
    yield _paper(
        "llama-3.1-70b",
        "meta-llama/Llama-3.1-70B-Instruct",
        32,
        "release's script for refusal/cdas_llama, in 4 bits",
        parts,
        1.4,
        load_in_4bit=True,
    )


PRESETS: dict[str, Preset] = {preset.name: preset for preset in _presets()}
