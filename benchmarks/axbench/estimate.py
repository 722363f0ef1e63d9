"""The size of a run before it starts: rows, steps, answers, requests to the judge, dollars.

Rows, steps, answers and requests follow from the preset. Tokens and dollars of the judge are
estimates from mean lengths. Hours are not estimated: they depend on the machine, and the first
finished concept tells them.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import pandas as pd

from benchmarks.axbench.neutral import Neutral
from benchmarks.axbench.presets import Preset
from benchmarks.command import with_total
from benchmarks.judges.prices import CHARACTERS_PER_TOKEN, PRICES, approximate_tokens
from benchmarks.judges.questions import EXPECTED_TOKENS, question_text
from benchmarks.judges.ratings import QUESTIONS, Item
from benchmarks.steps import UNSTEERED
from concept_das.methods import TrainedMethod, find_method
from concept_das.words import DIRECTIONS, Direction

# Training quadruples of a concept in AxBench.
_ROWS = 72

# Mean lengths in tokens (SmolLM2's) of 720 AxBench training rows (2B, layer 20, 10 concepts) and of
# AlpacaEval's 805 instructions; a neutral response is taken to be as long as the concept's. A
# concept in words is in characters.
_TRAINING_INSTRUCTION, _TEST_INSTRUCTION, _RESPONSE, _CONCEPT_CHARACTERS = 16, 37, 103, 60
# The request for a neutral response, beside the instruction.
_REQUEST = 100


def counts(
    preset: Preset, concepts: int, directions: Sequence[Direction] = DIRECTIONS
) -> pd.DataFrame:
    """The work and the price of a preset's run; nothing is loaded or downloaded.

    Args:
        directions: those that answers are asked for in.

    Returns:
        A row for the untouched model and one per method, over all concepts: training `rows` and
        `steps`, `multipliers`, `directions`, generated `answers`, and their `new_tokens` if all are
        of full length.
    """
    names = (UNSTEERED, *preset.methods)
    return pd.DataFrame([_method(preset, name, concepts, directions) for name in names])


def written(preset: Preset, concepts: int, given: bool) -> int:
    """Neutral responses that have to be written: one per training row, or none."""
    return 0 if given else concepts * _rows(preset)


def requests(
    preset: Preset,
    concepts: int,
    neutral: Neutral,
    given: bool = False,
    directions: Sequence[Direction] = DIRECTIONS,
) -> tuple[int, int, int]:
    """Requests to an endpoint, of judge and neutral responses, and their tokens in and out."""
    answers = counts(preset, concepts, directions)["answers"]
    judged = int(answers.sum()) if preset.judge == "api" else 0
    asked = written(preset, concepts, given) if neutral == "api" else 0
    item = Item(
        instruction="x" * (_TEST_INSTRUCTION * CHARACTERS_PER_TOKEN),
        response="x" * (preset.new_tokens * CHARACTERS_PER_TOKEN),
        concept="x" * _CONCEPT_CHARACTERS,
    )
    of_answer = sum(approximate_tokens(question_text(question, item)) for question in QUESTIONS)
    return (
        judged * len(QUESTIONS) + asked,
        judged * of_answer + asked * (_TRAINING_INSTRUCTION + _REQUEST),
        judged * len(QUESTIONS) * EXPECTED_TOKENS + asked * _RESPONSE,
    )


def estimate_text(
    preset: Preset,
    concepts: int,
    neutral: Neutral,
    judge_model: str,
    given: bool = False,
    directions: Sequence[Direction] = DIRECTIONS,
) -> str:
    """The size of a run in words and a table.

    Args:
        neutral: who writes neutral responses.
        judge_model: the endpoint's, whose list price is taken.
        given: the data have neutral responses.
        directions: as in `counts`.
    """
    table = counts(preset, concepts, directions)
    total = table[["steps", "answers", "new_tokens"]].sum()
    neutrals = written(preset, concepts, given)
    by = "given by the data"
    if neutrals:
        by = f"{neutrals:,} to be written by the {neutral}, where the data have none"
    lines = [
        f"{preset.name}: {preset.model}, layer {preset.layer}, {concepts} concepts, "
        f"{_rows(preset)} training rows each. Nothing has been run.",
        "",
        with_total(table, total),
        "",
        f"neutral responses: {by}",
        f"judge: {preset.judge}, {total['answers'] * len(QUESTIONS):,} ratings",
    ]
    asked, tokens_in, tokens_out = requests(preset, concepts, neutral, given, directions)
    if asked:
        price = PRICES.get(judge_model)
        cost = f"about ${price.of(tokens_in, tokens_out):,.2f}" if price else "of unknown price"
        lines += [
            f"endpoint: {asked:,} requests, {tokens_in / 1e6:,.1f} million tokens in and "
            f"{tokens_out / 1e6:,.1f} out, {cost} at {judge_model}'s list price "
            f"({CHARACTERS_PER_TOKEN} characters a token, {EXPECTED_TOKENS} tokens of rating)"
        ]
    lines.append("hours: run one concept (--concepts 0) and multiply")
    return "\n".join(lines)


def _rows(preset: Preset) -> int:
    return min(preset.rows or _ROWS, _ROWS)


def _method(
    preset: Preset, name: str, concepts: int, directions: Sequence[Direction]
) -> dict[str, Any]:
    steps, strengths, able = 0, 1, set(DIRECTIONS)
    if name != UNSTEERED:
        config, method = preset.configs[name], find_method(name)
        able, strengths = set(method.directions), len(preset.strengths(name))
        if isinstance(method, TrainedMethod):
            steps = config.epochs * ceil(_rows(preset) / config.batch_size)
    ways = len(able & set(directions))
    answers = concepts * preset.instructions_per_concept * strengths * ways
    return {
        "method": name,
        "rows": 0 if name == UNSTEERED else concepts * _rows(preset),
        "steps": concepts * steps,
        "multipliers": strengths,
        "directions": ways,
        "answers": answers,
        "new_tokens": answers * preset.new_tokens,
    }
