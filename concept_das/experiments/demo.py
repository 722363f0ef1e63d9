"""Run the demo: one concept in plain words, from nothing to a report."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from concept_das.data.chat_format import ChatFormat
from concept_das.data.files import write_rows, write_table
from concept_das.data.quadruples import Quadruple, split_quadruples
from concept_das.data.reading import read_quadruples
from concept_das.data.shipped import shipped_instructions
from concept_das.evaluation.recognition import concept_words, recognised
from concept_das.evaluation.recovery import evaluate
from concept_das.experiments.making import make_quadruples
from concept_das.methods.registry import find_method
from concept_das.models.blocks import find_site
from concept_das.models.loading import LoadedModel
from concept_das.reports.page import Sample
from concept_das.reports.results import write_report
from concept_das.runs.files import without_nan, write_atomically
from concept_das.steering.artifact import Artifact
from concept_das.steering.card import SAMPLES_FILE
from concept_das.steering.context import Steering
from concept_das.steering.factors import Latents, measure_latents
from concept_das.steering.generation import generate_responses
from concept_das.steering.vector import SteeringVector
from concept_das.training.tracking import TrackingMode, open_tracker
from concept_das.training.vectors import train_vector, versions
from concept_das.words import DIRECTIONS

INSTRUCTIONS, HELDOUT, SAMPLES, NEW_TOKENS = 128, 24, 8, 48

# One direction at each of eight blocks, the factors learned: of the forms compared in
# results/blocks, the one that elicits and suppresses best at multiplier 1.
RECIPE = find_method("cdas_learned").config(
    learning_rate=0.02, epochs=6, max_response_tokens=NEW_TOKENS
)

MULTIPLIERS = (0.5, 1.0, 1.25, 1.5, 2.0)


def run(
    loaded: LoadedModel,
    out: Path,
    *,
    concept: str,
    layer: int | None = None,
    wandb: TrackingMode = "off",
) -> Path:
    """Make data, train, evaluate, generate samples, and write `report.html` and `metrics.json`.

    An interrupted demo continues where it stopped when it is run again with the same folder.

    Args:
        layer: one block to act at, 0-based; several over the model's depth if None.

    Returns:
        The path of the report.
    """
    start = time.monotonic()
    whole = not (out / "data.parquet").exists() and not (out / "data.partial.json").exists()
    chat = ChatFormat.of(loaded.tokenizer)
    rows = _data(loaded, chat, concept, out)
    kept, held = split_quadruples(rows, HELDOUT, RECIPE.seed)
    partial = out / "evaluation.partial.json"
    tracker = open_tracker(wandb, name=out.name, config={"concept": concept}, folder=out)
    try:
        trained = train_vector(
            loaded,
            chat,
            kept,
            held,
            "spread" if layer is None else layer,
            RECIPE,
            tracker=tracker,
            checkpoint=out / "progress",
        )
        evaluation = evaluate(
            loaded.model,
            chat,
            trained.vector,
            loaded.encode(chat, held, RECIPE.max_response_tokens),
            multipliers=MULTIPLIERS,
            partial=partial,
        )
        metrics = evaluation.headline()
        tracker.log(metrics, step=len(trained.history))
    finally:
        tracker.finish()
    vector = replace(trained.vector, metrics=metrics)
    vector.save(out / "vector")
    write_table(out / "evaluation.csv", evaluation.table)
    samples = make_samples(loaded, chat, vector, held[:SAMPLES])
    shown = json.dumps([asdict(sample) for sample in samples], indent=2, ensure_ascii=False)
    write_atomically(out / SAMPLES_FILE, shown.encode())
    words = concept_words(
        [row.positive_output for row in kept], [row.negative_output for row in kept]
    )
    shares = recognised_shares(samples, words)
    metrics |= {f"recognised: {name}": share for name, share in shares.items()}
    metrics["training_seconds"] = round(trained.seconds, 1)
    if whole:  # else a part of the work was done earlier
        metrics["seconds"] = round(time.monotonic() - start, 1)
    content = json.dumps({**without_nan(metrics), "versions": versions()}, indent=2)
    write_atomically(out / "metrics.json", content.encode())
    latents = _latents(loaded, chat, vector, kept)
    report = write_report(
        out / "report.html", trained, latents, evaluation, samples, metrics, words
    )
    partial.unlink(missing_ok=True)
    return report


def _data(loaded: LoadedModel, chat: ChatFormat, concept: str, out: Path) -> list[Quadruple]:
    path, partial = out / "data.parquet", out / "data.partial.json"
    if not path.exists():
        rows = make_quadruples(
            loaded,
            chat,
            concept,
            shipped_instructions(INSTRUCTIONS, RECIPE.seed),
            max_new_tokens=NEW_TOKENS,
            partial=partial,
        )
        write_rows(path, rows)
    partial.unlink(missing_ok=True)
    return read_quadruples(path)


def _latents(
    loaded: LoadedModel, chat: ChatFormat, vector: Artifact, rows: Sequence[Quadruple]
) -> Latents:
    """Coordinates of the training prompts along the directions of the vector's middle block."""
    assert isinstance(vector, SteeringVector)
    encoded = loaded.encode(chat, rows, RECIPE.max_response_tokens)
    middle = vector.sites[len(vector.sites) // 2]
    site = find_site(loaded.model, middle.layer)
    return measure_latents(loaded.model, site, middle.weight, encoded)


def recognised_shares(samples: Sequence[Sample], words: Sequence[str]) -> dict[str, float]:
    """The share of answers with one of the concept's words, by the way they were made."""
    found: dict[str, list[bool]] = {}
    for sample in samples:
        for name, answer in sample.answers:
            found.setdefault(name, []).extend(recognised([answer], words))
    return {name: sum(flags) / len(flags) for name, flags in found.items()}


def make_samples(
    loaded: LoadedModel,
    chat: ChatFormat,
    vector: Artifact,
    rows: Sequence[Quadruple],
) -> list[Sample]:
    """Answers to the same held-out instructions, unsteered and steered in both directions.

    The multiplier is 1, so that nothing is chosen. The unsteered answers come from the data: the
    same model wrote them, greedily and as long.
    """
    neutral = [chat.prompt(row.negative_input) for row in rows]
    concept = [chat.prompt(row.positive_input) for row in rows]
    elicit, suppress = (Steering(vector, direction) for direction in DIRECTIONS)
    steered = generate_responses(
        loaded.model,
        chat,
        neutral + concept,
        steering=[elicit] * len(rows) + [suppress] * len(rows),
        max_new_tokens=NEW_TOKENS,
        progress="samples",
    )
    return [
        Sample(
            row.negative_input,
            [
                ("bare instruction, unsteered", row.negative_output),
                ("bare instruction, elicited", elicited),
                ("concept asked for, unsteered", row.positive_output),
                ("concept asked for, suppressed", suppressed),
            ],
        )
        for row, elicited, suppressed in zip(
            rows, steered[: len(rows)], steered[len(rows) :], strict=True
        )
    ]
