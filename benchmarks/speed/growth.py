"""The growth of a step's cost with tokens, depth, vocabulary, rows and concepts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.speed.steps import (
    Step,
    compare_steps,
    concepts_step,
    engine_step,
    release_step,
)
from benchmarks.speed.timing import peak_bytes_of, seconds_of
from concept_das.data.encoding import EncodedQuadruple, Interchange
from concept_das.models.blocks import find_site
from concept_das.models.loading import LoadedModel
from concept_das.reports.figures import figure_png
from concept_das.runs.files import write_atomically
from concept_das.training.options import EngineOptions

TOKENS = (16, 32, 64, 128)
ROWS = (2, 4, 8, 16)
CONCEPTS = (1, 2, 4, 8)
VOCABULARIES = (49_152, 128_256, 256_000)

AXES = {
    "tokens": "response tokens per row",
    "layer": "layer of the site",
    "rows": "rows per step",
    "concepts": "concepts in a step",
    "vocabulary": "vocabulary (width 64, 4 blocks)",
}


def growth(
    loaded: LoadedModel,
    layer: int,
    concepts: Sequence[Sequence[EncodedQuadruple]],
    options: EngineOptions,
) -> pd.DataFrame:
    """One row per point: `axis, value, way, seconds, peak_bytes`; seconds are per concept.

    Args:
        concepts: rows of several concepts; the first one's are used where one is enough.
    """
    rows, few = concepts[0], concepts[0][:16]
    points: list[dict[str, Any]] = []

    def add(
        axis: str,
        value: int,
        steps: dict[str, Step],
        used: Sequence[EncodedQuadruple],
        batch_size: int = 8,
    ) -> None:
        costs = compare_steps(steps, used, batch_size=batch_size, repeats=2, device=loaded.device)
        for way, cost in costs.items():
            kept = {"seconds": cost.seconds, "peak_bytes": cost.peak_bytes}
            points.append({"axis": axis, "value": value, "way": way, **kept})

    for tokens in TOKENS:
        short = [_cut(row, tokens) for row in few]
        engine = engine_step(loaded, layer, short, options)
        add("tokens", tokens, {"release": release_step(loaded, layer), "engine": engine}, short)
    n_layers = find_site(loaded.model, 0).n_layers
    for at in sorted({0, n_layers // 4, n_layers // 2, 3 * n_layers // 4, n_layers - 1}):
        add("layer", at, {"engine": engine_step(loaded, at, few, options)}, few)
    for count in ROWS:
        used = rows[: 2 * count]
        add("rows", count, {"engine": engine_step(loaded, layer, used, options)}, used, count)
    points += _by_concepts(loaded, layer, concepts, options)
    # Kept logits would grow with the vocabulary; they belong to the cache, not the step.
    small_cache = replace(options, cache_gb=0.1)
    for vocabulary in VOCABULARIES:
        small = replace(loaded, model=_model_of(vocabulary).to(loaded.device).eval())
        engine = engine_step(small, 2, few, small_cache)
        add("vocabulary", vocabulary, {"release": release_step(small, 2), "engine": engine}, few)
    return pd.DataFrame(points)


def _cut(row: EncodedQuadruple, tokens: int) -> EncodedQuadruple:
    def cut(pair: Interchange) -> Interchange:
        response = pair.base.response[:tokens]
        return Interchange(
            pair.base.prompt.with_response(response), pair.source.prompt.with_response(response)
        )

    return EncodedQuadruple(cut(row.elicit), cut(row.suppress))


def _by_concepts(
    loaded: LoadedModel,
    layer: int,
    concepts: Sequence[Sequence[EncodedQuadruple]],
    options: EngineOptions,
) -> Iterator[dict[str, Any]]:
    """A batch of eight rows of each concept in one step; seconds per concept."""
    for count in CONCEPTS:
        used = [rows[:8] for rows in concepts[:count]]
        step = partial(concepts_step(loaded, layer, used, options), used)
        step()
        seconds = min(seconds_of(step, loaded.device) for _ in range(2))
        yield {
            "axis": "concepts",
            "value": count,
            "way": "engine",
            "seconds": seconds / count,
            "peak_bytes": peak_bytes_of(step, loaded.device),
        }


def _model_of(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    )


def plot_growth(frame: pd.DataFrame, path: Path) -> None:
    """Seconds and peak memory against each quantity."""
    figure = Figure(figsize=(3.2 * len(AXES), 5.6), layout="tight", dpi=130)
    axes = figure.subplots(2, len(AXES))
    for column, (axis, label) in enumerate(AXES.items()):
        of_axis = frame[frame["axis"] == axis]
        for way, points in of_axis.groupby("way"):
            axes[0, column].plot(points["value"], points["seconds"], "o-", label=way)
            axes[1, column].plot(points["value"], points["peak_bytes"] / 2**30, "o-", label=way)
        for row in axes[:, column]:
            row.set_ylim(bottom=0)
        axes[1, column].set_xlabel(label)
        axes[0, column].legend(frameon=False)
    axes[0, 0].set_ylabel("seconds per step and concept")
    axes[1, 0].set_ylabel("peak memory of a step, GiB")
    write_atomically(path, figure_png(figure))
