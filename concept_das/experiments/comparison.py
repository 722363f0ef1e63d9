"""Compare methods on the same rows, in the same engine, with the same measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from concept_das.data.chat_format import ChatFormat
from concept_das.data.files import write_table
from concept_das.data.quadruples import Quadruple, data_hash
from concept_das.evaluation.fluency import distinct_pairs, log_likelihoods
from concept_das.evaluation.intervals import mean_with_interval
from concept_das.experiments.grid import Cell, GridPlan, run_cells
from concept_das.methods import TrainedMethod
from concept_das.methods.registry import find_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.identity import ModelIdentity
from concept_das.models.loading import LoadedModel
from concept_das.runs.files import fingerprint_of
from concept_das.steering.artifact import Artifact
from concept_das.steering.context import Steering
from concept_das.steering.generation import generate_responses
from concept_das.training.options import DEFAULT_ENGINE, EngineOptions
from concept_das.training.vectors import place
from concept_das.words import DIRECTIONS


@dataclass(frozen=True, kw_only=True)
class ComparisonPlan(GridPlan):
    """The layer to compare at, and how each vector is measured.

    Attributes:
        layer: block of the methods that act at one, 0-based.
        generations: held-out instructions answered at every multiplier; 0 for none.
        new_tokens: length of these answers.
    """

    layer: int
    generations: int = 4
    new_tokens: int = 32


def compare(
    loaded: LoadedModel,
    chat: ChatFormat,
    concepts: Mapping[int, Sequence[Quadruple]],
    configs: Sequence[TrainingConfig] | Mapping[str, TrainingConfig],
    plan: ComparisonPlan,
    out: Path,
    *,
    engine: EngineOptions = DEFAULT_ENGINE,
) -> pd.DataFrame:
    """Train and measure every method on every concept, with every seed.

    All methods are scored on the same text: held-out responses are cut to the longest
    `max_response_tokens` among the methods.

    Finished work stays in `out` and is not done again: a folder for each concept, method and seed
    holds the vector, the measurements (`table.csv`), and the answers (`answers.parquet`).

    Args:
        concepts: rows of each concept, by its number.
        configs: one for each method; by the names in the tables where a method is there in several
            forms, such as `cdas` and `cdas@spread`.

    Returns:
        One row per method, concept, seed and multiplier.

    Raises:
        InputError: before any training, if the rows or the plan cannot be used, or `out` holds
            results of other options.
    """
    splits = {number: plan.split(rows) for number, rows in concepts.items()}
    named = configs if isinstance(configs, Mapping) else {c.method: c for c in configs}
    blocks = {}
    for label, config in named.items():
        method = find_method(config.method)
        method.check_installed()
        layer = None if config.layers else plan.layer
        blocks[label], placed = place(loaded.model, layer, config)
        if isinstance(method, TrainedMethod):
            method.sites(loaded.model, blocks[label], placed)
            method.span(config.positions)  # the method's own conditions
    longest = max(config.max_response_tokens for config in named.values())
    cells = [
        Cell(
            name=f"{label}, concept {number}",
            parent=out / f"concept-{number}" / label,
            label=label,
            concept_id=number,
            config=config,
            layers=blocks[label],
            rows=kept,
            heldout=held,
            response_tokens=longest,
            plan=plan,
            signature=_signature(loaded, chat, config, plan, kept, held, longest),
        )
        for number, (kept, held) in splits.items()
        for label, config in named.items()
    ]
    generate = partial(_generate, loaded, chat, plan) if plan.generations else None
    table = run_cells(loaded, chat, cells, engine, generate)
    return table.assign(layers=table["layers"].fillna(""))


def read_answers(out: Path) -> pd.DataFrame:
    """Every answer that a comparison generated: method, concept, direction, instruction, text."""
    found = [
        pd.read_parquet(path) for path in sorted(out.glob("concept-*/*/seed-*/answers.parquet"))
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _signature(
    loaded: LoadedModel,
    chat: ChatFormat,
    config: TrainingConfig,
    plan: ComparisonPlan,
    kept: Sequence[Quadruple],
    held: Sequence[Quadruple],
    response_tokens: int,
) -> str:
    """A fingerprint of all that finished work depends on."""
    own = response_tokens == config.max_response_tokens  # as in earlier releases
    # The order is part of the fingerprint.
    names = "layer heldout rows multipliers unrelated generations new_tokens split_seed"
    measured = {name: getattr(plan, name) for name in names.split()}
    return fingerprint_of(
        [
            {**config.record(), "seed": None},
            measured,
            data_hash(kept),
            data_hash(held),
            ModelIdentity.of(loaded.model).fingerprint,
            [chat.system, chat.source_token, list(chat.prefix), *chat.template.given.items()],
            *([] if own else [response_tokens]),
        ]
    )


def _generate(
    loaded: LoadedModel,
    chat: ChatFormat,
    plan: ComparisonPlan,
    cell: Cell,
    vector: Artifact,
    seed: int,
    multipliers: Sequence[float],
) -> pd.DataFrame:
    """Save a cell's answers in its folder, and measure their fluency, one row per multiplier."""
    rows = cell.heldout[: plan.generations]
    answers = _answers(loaded, chat, vector, multipliers, rows, plan)
    answers.insert(0, "method", cell.label)
    answers.insert(1, "concept_id", cell.concept_id)
    answers.insert(2, "seed", seed)
    write_table(cell.folder(seed) / "answers.parquet", answers)
    return _fluency(answers)


def _answers(
    loaded: LoadedModel,
    chat: ChatFormat,
    vector: Artifact,
    multipliers: Sequence[float],
    rows: Sequence[Quadruple],
    plan: ComparisonPlan,
) -> pd.DataFrame:
    """Steered greedy answers to held-out instructions, with likelihood and repetition.

    Elicitation steers on the neutral instruction, suppression on the concept prompt. The likelihood
    is the unsteered model's.
    """
    asked: list[dict[str, Any]] = [
        {
            "concept": vector.concept,
            "direction": direction,
            "multiplier": multiplier,
            "instruction": row.negative_input if direction == "elicit" else row.positive_input,
        }
        for direction in vector.directions
        for multiplier in multipliers
        for row in rows
    ]
    texts = generate_responses(
        loaded.model,
        chat,
        [chat.prompt(a["instruction"]) for a in asked],
        steering=[Steering(vector, a["direction"], a["multiplier"]) for a in asked],
        max_new_tokens=plan.new_tokens,
    )
    with_text = [i for i, text in enumerate(texts) if chat.text_ids(text)]
    pairs = [(asked[i]["instruction"], texts[i]) for i in with_text]
    likelihood: dict[int, float] = {}
    if pairs:
        values = log_likelihoods(loaded.model, chat, pairs, max_tokens=plan.new_tokens)
        likelihood = dict(zip(with_text, values, strict=True))
    frame = pd.DataFrame(asked)
    frame["text"] = texts
    frame["log_likelihood"] = [likelihood.get(i, float("nan")) for i in range(len(texts))]
    frame["repetition"] = [
        1 - distinct_pairs(chat.text_ids(text)) if i in likelihood else float("nan")
        for i, text in enumerate(texts)
    ]
    return frame


def _fluency(answers: pd.DataFrame) -> pd.DataFrame:
    """Repetition and perplexity by multiplier and direction, with Student's 95% intervals.

    Repetition is the share of pairs of neighbouring tokens that occurred before. Perplexity is that
    of the unsteered model for an answer to its instruction: exp of the mean negative log-likelihood
    per token, averaged over answers before the exponential.
    """
    records = []
    for multiplier, group in answers.groupby("multiplier"):
        record: dict[str, Any] = {"multiplier": multiplier}
        for direction in DIRECTIONS:
            own = group[group["direction"] == direction]
            losses = -own["log_likelihood"]
            loss = mean_with_interval(f"perplexity_{direction}", losses, within=(0.0, np.inf))
            name, values = f"repetition_{direction}", own["repetition"]
            record |= mean_with_interval(name, values, within=(0.0, 1.0))
            record |= {name: float(np.exp(value)) for name, value in loss.items()}
        records.append(record)
    return pd.DataFrame(records)
