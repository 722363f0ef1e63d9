"""Methods with hyper-parameters, as the presets of both benchmarks have them.

`release` is the authors' repository (colored-dye/concept_das), `AxBench` is stanfordnlp/axbench.
"""

from collections.abc import Sequence

from benchmarks.safety.plan import Part
from concept_das.methods import find_method
from concept_das.recipe import TrainingConfig

CLAMPED = ("cdas", "das", "kl_teacher_student", "kl_student_teacher", "pdas")

_UNIT = (1.0,)
_NO_STRENGTH = "none: the method has no strength"
_AROUND_UNIT = (0.5, 1.0, 1.5, 2.0)
_AROUND_UNIT_SOURCE = "this project: around the unit factor"


def clamped_parts(
    sources: dict[str, str],
    *,
    lr: float,
    batch_size: int,
    epochs: int,
    tokens: int,
    factor_source: str,
    factors: Sequence[float] = _UNIT,
    otherwise: str = "as CDAS; the release has no configuration",
) -> list[Part]:
    """CDAS and its relatives, with the same numbers.

    Args:
        sources: by method; `otherwise` for those that are not in it.
    """
    return [
        Part(
            TrainingConfig(
                name,
                learning_rate=lr,
                epochs=epochs,
                batch_size=batch_size,
                max_response_tokens=tokens,
            ),
            tuple(factors),
            sources.get(name, otherwise),
            factor_source,
        )
        for name in CLAMPED
    ]


def reps_part(
    source: str,
    *,
    factors: Sequence[float],
    factor_source: str,
    reported: float,
    tokens: int,
    epochs: int = 8,
    lr: float = 0.04,
) -> Part:
    """RePS; a factor is a multiple of the vector, subtracted to suppress."""
    config = TrainingConfig(
        "reps", learning_rate=lr, epochs=epochs, batch_size=8, max_response_tokens=tokens
    )
    return Part(config, tuple(factors), source, factor_source, reported)


def axbench_parts(
    tokens: int, low_rank_layers: tuple[int, ...] = (5, 10, 15, 20), epochs: int | None = None
) -> list[Part]:
    """The baselines with AxBench's numbers for Gemma-2-2B.

    Args:
        epochs: in place of AxBench's, where they are too many for the data.
    """
    other = "" if epochs is None else f"; this project: {epochs} epochs"
    source = f"AxBench, Gemma-2-2B; not for this data{other}"
    parts = [
        Part(
            TrainingConfig("diffmean", max_response_tokens=tokens),
            _AROUND_UNIT,
            "AxBench: one pass",
            _AROUND_UNIT_SOURCE,
        )
    ]
    for name, factors, where in (
        ("lang", (2.75, 5.5, 11.0, 22.0), "this project: 1/4 to 2 of the mean factor in training"),
        ("bipo", _AROUND_UNIT, _AROUND_UNIT_SOURCE),
    ):
        config = find_method(name).config(
            learning_rate=0.04, max_response_tokens=tokens, **_epochs(epochs)
        )
        parts.append(Part(config, factors, source, where, reported=11.0 if name == "lang" else 1.0))
    for name in ("loreft", "lora", "cdas_loreft"):
        config = find_method(name).config(
            layers=low_rank_layers, max_response_tokens=tokens, **_epochs(epochs)
        )
        parts.append(Part(config, _UNIT, source, _NO_STRENGTH))
    prompt = "this project: a fixed sentence around the concept"
    parts.append(Part(TrainingConfig("prompt"), _UNIT, prompt, _NO_STRENGTH))
    return parts


def _epochs(epochs: int | None) -> dict[str, int]:
    return {} if epochs is None else {"epochs": epochs}
