"""The size of a run before it starts: rows, steps, answers, requests to the judge, dollars.

Rows, steps, answers and requests follow from the preset. Tokens and dollars of the judge are
estimates from mean lengths. Hours are not estimated: they depend on the machine, and the first
finished concept tells them.
"""

from math import ceil
from typing import Any

import pandas as pd

from benchmarks.axbench.neutral import Neutral
from benchmarks.axbench.presets import Preset
from benchmarks.judges.prices import CHARACTERS_PER_TOKEN, PRICES, approximate_tokens
from benchmarks.judges.questions import EXPECTED_TOKENS, question_text
from benchmarks.judges.ratings import QUESTIONS, Item
from concept_das.methods import TrainedMethod, find_method

# Training quadruples of a concept in AxBench.
_ROWS = 72

# Mean lengths in tokens (SmolLM2's) of 720 AxBench training rows (2B, layer 20, 10 concepts) and of
# AlpacaEval's 805 instructions; a neutral response is taken to be as long as the concept's. A
# concept in words is in characters.
_TRAINING_INSTRUCTION, _TEST_INSTRUCTION, _RESPONSE, _CONCEPT_CHARACTERS = 16, 37, 103, 60
# The request for a neutral response, beside the instruction.
_REQUEST = 100


def counts(preset: Preset, concepts: int) -> pd.DataFrame:
    """The work and the price of a preset's run; nothing is loaded or downloaded.

    Returns:
        A row per method, over all concepts: training `rows` and `steps`, `multipliers`,
        `directions`, generated `answers`, and their `new_tokens` if all are of full length.
    """
    return pd.DataFrame([_method(preset, name, concepts) for name in preset.methods])


def requests(preset: Preset, concepts: int, neutral: Neutral) -> tuple[int, int, int]:
    """Requests to an endpoint, of judge and neutral responses, and their tokens in and out."""
    judged = int(counts(preset, concepts)["answers"].sum()) if preset.judge == "api" else 0
    written = concepts * _ROWS if neutral == "api" else 0
    item = Item(
        instruction="x" * (_TEST_INSTRUCTION * CHARACTERS_PER_TOKEN),
        response="x" * (preset.new_tokens * CHARACTERS_PER_TOKEN),
        concept="x" * _CONCEPT_CHARACTERS,
    )
    of_answer = sum(approximate_tokens(question_text(question, item)) for question in QUESTIONS)
    return (
        judged * len(QUESTIONS) + written,
        judged * of_answer + written * (_TRAINING_INSTRUCTION + _REQUEST),
        judged * len(QUESTIONS) * EXPECTED_TOKENS + written * _RESPONSE,
    )


def estimate_text(preset: Preset, concepts: int, neutral: Neutral, judge_model: str) -> str:
    """The size of a run in words and a table.

    Args:
        neutral: who writes neutral responses.
        judge_model: the endpoint's, whose list price is taken.
    """
    table = counts(preset, concepts).set_index("method").map("{:,}".format).reset_index()
    lines = [
        f"{preset.name}: {preset.model}, layer {preset.layer}, {concepts} concepts. Nothing has "
        "been run.",
        "",
        table.to_string(index=False),
        "",
        f"neutral responses: by the {neutral}",
        f"judge: {preset.judge}",
    ]
    asked, tokens_in, tokens_out = requests(preset, concepts, neutral)
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


def _method(preset: Preset, name: str, concepts: int) -> dict[str, Any]:
    config, method = preset.configs[name], find_method(name)
    rows = min(preset.rows or _ROWS, _ROWS)
    steps = config.epochs * ceil(rows / config.batch_size)
    strengths = len(preset.strengths(name))
    ways = len(method.directions)
    answers = concepts * preset.instructions_per_concept * strengths * ways
    return {
        "method": name,
        "rows": concepts * rows,
        "steps": concepts * steps if isinstance(method, TrainedMethod) else 0,
        "multipliers": strengths,
        "directions": ways,
        "answers": answers,
        "new_tokens": answers * preset.new_tokens,
    }
