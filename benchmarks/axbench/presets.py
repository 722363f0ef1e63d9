"""What is run for a model and layer: methods, hyper-parameters, strengths, and where each is from.

`release` is the authors' repository (colored-dye/concept_das), `AxBench` is stanfordnlp/axbench;
the path after it is a configuration's. Batch sizes are effective ones, gradient accumulation
included. The release's output lengths count a begin-of-text token, where the tokenizer adds one;
here they are response tokens: 128 for its 129, 511 for its 512, on every model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.axbench.published import Cell
from benchmarks.judges.ratings import Kind
from concept_das.errors import InputError
from concept_das.methods.additive import Lang, RePS
from concept_das.methods.settings import TrainingConfig
from concept_das.models.packaged import PACKAGED_MODEL

CLAMP_FACTORS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0)
SCALED_FACTORS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0)
ADDED_FACTORS = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 25.0, 30.0, 40.0, 50.0)
PDAS_FACTORS = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)

# Multiplier 1 of these methods is this factor.
UNIT_FACTORS = {method.name: method.unit_factor for method in (Lang, RePS)}


@dataclass(frozen=True)
class Preset:
    """A run of the benchmark.

    Attributes:
        name: model and layer.
        model: hub id, or the packaged model.
        layer: decoder block of the methods that act at one, 0-based.
        configs: hyper-parameters of each method, by its name.
        factors: strengths of each method as the sources have them; see `multipliers`.
        sources: where things are from, by `layer`, method (its hyper-parameters), `METHOD factors`,
            `generation` (instructions, length, temperature) and `judge`.
        cell: the published scores that belong beside it; None if there are none.
        concept_ids: which concepts of the data; all if None.
        instructions_per_concept: half of them choose the multiplier.
        new_tokens: length of the answers.
        temperature: at which they are sampled.
        judge: kind of judge.
        rows: training rows per concept; all if None.
    """

    name: str
    model: str
    layer: int
    configs: Mapping[str, TrainingConfig]
    factors: Mapping[str, tuple[float, ...]]
    sources: Mapping[str, str]
    cell: Cell | None = None
    concept_ids: tuple[int, ...] | None = None
    instructions_per_concept: int = 10
    new_tokens: int = 128
    temperature: float = 1.0
    judge: Kind = "api"
    rows: int | None = None

    def strengths(self, method: str) -> tuple[float, ...]:
        """The multipliers that a method is run at: the grid, and 1 for the unit scores."""
        return tuple(sorted({*self.multipliers.get(method, ()), 1.0}))

    def seeded(self, method: str, seed: int) -> TrainingConfig:
        """A method's hyper-parameters with a seed."""
        return replace(self.configs[method], seed=seed)

    def only(self, methods: Sequence[str]) -> "Preset":
        """The preset with some of its methods.

        Raises:
            InputError: if it does not have one, or one is named twice.
        """
        for method in methods:
            if method not in self.configs or list(methods).count(method) > 1:
                raise InputError(
                    f"{method!r} is named twice or not in {self.name}; choose from "
                    f"{', '.join(self.configs)}"
                )
        return replace(self, configs={name: self.configs[name] for name in methods})

    @property
    def methods(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(self.configs)

    @property
    def multipliers(self) -> dict[str, tuple[float, ...]]:
        """The factors of each method as this project's multipliers."""
        return {name: to_multipliers(name, factors) for name, factors in self.factors.items()}


def to_multipliers(method: str, factors: Sequence[float]) -> tuple[float, ...]:
    """Published factors as multipliers: for Lang. and RePS f / 11, for the others the same."""
    return tuple(factor / UNIT_FACTORS.get(method, 1.0) for factor in factors)


@dataclass(frozen=True)
class _Part:
    """One method of a preset."""

    config: TrainingConfig
    factors: tuple[float, ...]
    source: str
    factor_source: str


_NO_STRENGTH = "none: the method has no strength"
_LENGTH = "128 response tokens, the length AxBench's responses were generated at"


def _preset(
    name: str, model: str, layer: int, layer_source: str, parts: Sequence[_Part], **more: Any
) -> Preset:
    sources = {
        "layer": layer_source,
        "generation": "release and AxBench, all configurations: 10 instructions, 128 tokens, T 1.0",
        "judge": "release and AxBench: gpt-4o-mini",
    }
    for part in parts:
        sources[part.config.method] = part.source
        sources[f"{part.config.method} factors"] = part.factor_source
    return Preset(
        name=name,
        model=model,
        layer=layer,
        configs={part.config.method: part.config for part in parts},
        factors={part.config.method: part.factors for part in parts},
        sources={**sources, **more.pop("sources", {})},
        **more,
    )


def _clamped(
    method: str,
    source: str,
    *,
    lr: float = 0.04,
    batch_size: int = 8,
    epochs: int = 18,
    tokens: int = 128,
    factors: tuple[float, ...] = CLAMP_FACTORS,
    factor_source: str | None = None,
) -> _Part:
    """CDAS and its relatives; the release's numbers if not given."""
    config = TrainingConfig(
        method,
        learning_rate=lr,
        epochs=epochs,
        batch_size=batch_size,
        max_response_tokens=tokens,
    )
    return _Part(config, factors, source, factor_source or source)


def _reps(source: str, *, lr: float, epochs: int = 18, tokens: int = 511) -> _Part:
    config = TrainingConfig(
        "reps", learning_rate=lr, epochs=epochs, batch_size=6, max_response_tokens=tokens
    )
    return _Part(config, ADDED_FACTORS, source, source)


def _lang_and_bipo(model: str, *, lang_epochs: int, lr: float, more: str = "") -> list[_Part]:
    source = f"AxBench, {model}: batch 6 accumulated twice{more}; {_LENGTH}"
    lang = TrainingConfig("lang", learning_rate=lr, epochs=lang_epochs, batch_size=12)
    bipo = TrainingConfig("bipo", learning_rate=lr, epochs=12, batch_size=12)
    return [
        _Part(lang, ADDED_FACTORS, source, "AxBench: 14 factors"),
        _Part(bipo, SCALED_FACTORS, source, "AxBench: 14 factors"),
    ]


def _low_rank(
    method: str, source: str, *, lr: float, layers: tuple[int, ...] = (5, 10, 15, 20)
) -> _Part:
    config = TrainingConfig(
        method, rank=4, layers=layers, learning_rate=lr, epochs=24, batch_size=36
    )
    return _Part(config, (1.0,), f"{source}; {_LENGTH}", _NO_STRENGTH)


def _untrained() -> list[_Part]:
    prompt = "this project: a fixed sentence; AxBench has gpt-4o-mini write one for each concept"
    return [
        _Part(
            TrainingConfig("diffmean"),
            SCALED_FACTORS,
            f"AxBench: one pass; {_LENGTH}",
            "AxBench: 14 factors in units of the largest activation",
        ),
        _Part(TrainingConfig("prompt"), (1.0,), prompt, _NO_STRENGTH),
    ]


def _gemma_2b_parts(layer: int) -> list[_Part]:
    pdas = "release, axbench/pdas_vector, of layer 10; generates at temperature 0.01"
    batch = "batch 18 accumulated twice"
    return [
        _clamped("cdas", "release, axbench/cdas_gemma_2b"),
        _clamped("kl_teacher_student", "release, ablation/kldas_reverse"),
        _clamped("kl_student_teacher", "release, ablation/kldas_forward"),
        _clamped("das", "release, axbench/das_gemma_2b"),
        _clamped("pdas", pdas, batch_size=6, epochs=12, tokens=511, factors=PDAS_FACTORS),
        *_lang_and_bipo("Gemma-2-2B", lang_epochs=6, lr=0.04),
        _reps("release, axbench/sweep/byt/axbench/reps", lr=0.04),
        _low_rank("loreft", f"AxBench, 2b/l{layer}/loreft: {batch}", lr=9e-4),
        _low_rank("lora", f"AxBench, 2b/l{layer}/lora: {batch}", lr=9e-4),
        _low_rank(
            "cdas_loreft", "this project: LoReFT's; the release has it for refusal alone", lr=9e-4
        ),
        *_untrained(),
    ]


def _gemma_2b(layer: int, cell: Cell) -> Preset:
    return _preset(
        f"gemma-2-2b-l{layer}",
        "google/gemma-2-2b-it",
        layer,
        "AxBench and CDAS paper: layers 10 and 20",
        _gemma_2b_parts(layer),
        cell=cell,
    )


def _gemma_9b(layer: int, cell: Cell) -> Preset:
    dropout = ", and dropout 0.1, which is not applied here"
    batch = "batch 36 by accumulation"
    layers = (12, 20, 31, 39)
    parts = [
        _clamped(
            "cdas",
            "release, axbench/cdas_gemma_9b",
            lr=0.06,
            batch_size=6,
            factors=CLAMP_FACTORS[:11],
            factor_source="release, axbench/cdas_gemma_9b: 11 factors, said to be layer 20's",
        ),
        _clamped("das", "release, axbench/das_gemma_9b", lr=0.06),
        *_lang_and_bipo("Gemma-2-9B", lang_epochs=12, lr=0.08, more=dropout),
        _reps(f"AxBench, Gemma-2-9B: learning rate 0.08{dropout}", lr=0.08),
        _low_rank("loreft", f"AxBench, 9b/l{layer}/loreft: {batch}", lr=4e-4, layers=layers),
        _low_rank("lora", f"AxBench, 9b/l{layer}/lora: {batch}", lr=5e-3, layers=layers),
        *_untrained(),
    ]
    return _preset(
        f"gemma-2-9b-l{layer}",
        "google/gemma-2-9b-it",
        layer,
        "AxBench and CDAS paper: layers 20 and 31",
        parts,
        cell=cell,
    )


_AS_CDAS = "as CDAS; the release has no configuration for this model"


def _family(
    name: str,
    model: str,
    layer: int,
    cdas: str,
    reps: _Part,
    *,
    lr: float = 0.04,
    das: str = _AS_CDAS,
    more: Sequence[_Part] = (),
) -> Preset:
    """A model of the paper's ablation over model families."""
    trained = [_clamped("cdas", cdas, lr=lr), _clamped("das", das, lr=lr), *more, reps]
    where = "release, ablation configurations and scripts"
    return _preset(name, model, layer, where, [*trained, *_untrained()])


# What the SmolLM2 preset runs; the others of Gemma-2-2B would take as long again.
_ON_TWO_CORES = ("cdas", "das", "lang", "reps", "loreft", "diffmean", "prompt")


def _smollm2() -> Preset:
    """Gemma-2-2B's numbers, cut down to 90 processor-minutes."""
    few = (0.5, 1.0, 2.0)
    budget = "4 epochs of 32 rows in batches of 8, 32 response tokens"
    parts = []
    for part in _gemma_2b_parts(10):
        if part.config.method not in _ON_TWO_CORES:
            continue
        unit = UNIT_FACTORS.get(part.config.method, 1.0)
        parts.append(
            _Part(
                replace(part.config, epochs=4, batch_size=8, max_response_tokens=32),
                tuple(unit * f for f in few) if len(part.factors) > 1 else part.factors,
                f"this project: {budget}; else Gemma-2-2B's ({part.source})",
                "this project: multipliers 0.5, 1, 2; 1 for what has no strength",
            )
        )
    return _preset(
        "smollm2-135m",
        PACKAGED_MODEL,
        15,
        "this project: half of 30 layers",
        parts,
        concept_ids=(0, 1, 2, 3, 4),
        new_tokens=32,
        judge="proxy",
        rows=32,
        sources={
            "generation": "AxBench: 10 instructions, T 1.0; this project: 32 tokens",
            "judge": "this project: needs no network",
        },
    )


def _presets() -> Iterator[Preset]:
    yield _gemma_2b(10, "2b-l10")
    yield _gemma_2b(20, "2b-l20")
    yield _gemma_9b(20, "9b-l20")
    yield _gemma_9b(31, "9b-l31")
    yield _family(
        "qwen2.5-3b-l18",
        "Qwen/Qwen2.5-3B-Instruct",
        18,
        "release, ablation/cdas_qwen_3b",
        _reps("release, ablation/reps_qwen_3b", lr=0.04),
        more=[_clamped("pdas", "release, ablation/pdas_qwen_3b")],
    )
    yield _family(
        "qwen2.5-7b-l14",
        "Qwen/Qwen2.5-7B-Instruct",
        14,
        "release, ablation/cdas_qwen_7b",
        _reps("release, ablation/reps_qwen_7b", lr=0.08),
        lr=0.08,
        das="release, ablation/das_qwen_7b",
    )
    yield _family(
        "qwen2.5-14b-l24",
        "Qwen/Qwen2.5-14B-Instruct",
        24,
        "release, ablation/cdas_qwen_14b",
        _reps("release, ablation/reps_qwen_14b", lr=0.08, epochs=10, tokens=128),
        lr=0.08,
    )
    yield _family(
        "olmo-2-1b-l8",
        "allenai/OLMo-2-0425-1B-Instruct",
        8,
        "release, ablation/cdas_olmo_1b",
        _reps("release, ablation/reps_olmo_1b, whose own layer is 10", lr=0.08),
    )
    for size, layer in (("7b", 16), ("13b", 20)):
        yield _family(
            f"olmo-2-{size}-l{layer}",
            f"allenai/OLMo-2-1124-{size.upper()}-Instruct",
            layer,
            "OLMo-2-1B's (release, ablation/cdas_olmo_1b); the release has scripts alone",
            _reps(f"release, ablation/reps_olmo_{size}", lr=0.04),
        )
    yield _smollm2()


PRESETS: dict[str, Preset] = {preset.name: preset for preset in _presets()}


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        InputError: naming the known ones.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
