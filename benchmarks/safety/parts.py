"""Methods with hyper-parameters, as the presets of both benchmarks have them.

`release` is the authors' repository (colored-dye/concept_das), `AxBench` is stanfordnlp/axbench.
"""

from collections.abc import Sequence

from benchmarks.safety.plan import Part
from concept_das.methods import find_method
from concept_das.methods.settings import TrainingConfig

CLAMPED = ("cdas", "das", "kl_teacher_student", "kl_student_teacher", "pdas")

_UNIT = (1.0,)
_NO_STRENGTH = "none: the method has no strength"
_AROUND_UNIT = (0.5, 1.0, 1.5, 2.0)
_AROUND_UNIT_SOURCE = "this project: around the unit factor"

# What is added to an organism breaks its text at 2 and often at 1.
ORGANISM_ADDED = ((0.25, 0.5, 1.0), "this project: from a quarter of the unit factor to the whole")

# In five of six trainings on the organisms the two means of CDAS lie on the same side of 0, so that
# m x factor moves the wrong way in one of the directions as m grows.
ORGANISM_RULE_SOURCE = (
    "this project: both means mostly lie on the same side of 0; the paper's is m x factor"
)


def clamped_parts(
    sources: dict[str, str],
    *,
    lr: float,
    batch_size: int,
    epochs: int,
    tokens: int,
    factor_source: str,
    factors: Sequence[float] = _UNIT,
    rank: int = 1,
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
                rank=rank,
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
    tokens: int,
    low_rank_layers: tuple[int, ...] = (5, 10, 15, 20),
    budget: tuple[int, int] | None = None,
    diffmean: tuple[tuple[float, ...], str] = (_AROUND_UNIT, _AROUND_UNIT_SOURCE),
) -> list[Part]:
    """The baselines with AxBench's numbers for Gemma-2-2B.

    Args:
        budget: epochs and batch size in place of AxBench's, where those take too long.
        diffmean: factors of DiffMean, and where they are from.
    """
    changed = {} if budget is None else {"epochs": budget[0], "batch_size": budget[1]}
    other = "" if budget is None else f"; this project: {budget[0]} epochs, batch {budget[1]}"
    source = f"AxBench, Gemma-2-2B, which is not for this data{other}"
    parts = [
        Part(
            TrainingConfig("diffmean", max_response_tokens=tokens),
            diffmean[0],
            "AxBench: one pass",
            diffmean[1],
        )
    ]
    lang = ((2.75, 5.5, 11.0, 22.0), "this project: 1/4 to 2 of the mean factor in training", 11.0)
    bipo = (_AROUND_UNIT, _AROUND_UNIT_SOURCE, 1.0)
    for name, (factors, where, reported) in (("lang", lang), ("bipo", bipo)):
        config = find_method(name).config(max_response_tokens=tokens, **changed)
        parts.append(Part(config, factors, source, where, reported))
    for name in ("loreft", "lora", "cdas_loreft"):
        config = find_method(name).config(
            layers=low_rank_layers, max_response_tokens=tokens, **changed
        )
        parts.append(Part(config, _UNIT, source, _NO_STRENGTH))
    prompt = "this project: a fixed sentence around the concept"
    parts.append(Part(TrainingConfig("prompt"), _UNIT, prompt, _NO_STRENGTH))
    return parts
