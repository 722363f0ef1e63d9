"""The size of a run before it starts: rows, steps, answers, requests to the judge, dollars.

Rows, steps, answers and requests follow from the preset. Tokens and dollars of the judge are
estimates from mean lengths. Hours are not estimated: they depend on the machine, and the first
finished concept tells them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, get_args

import pandas as pd

from benchmarks.axbench.presets import Preset
from benchmarks.judges.endpoint import EXPECTED_TOKENS
from benchmarks.judges.prices import CHARACTERS_PER_TOKEN, PRICES, approximate_tokens
from benchmarks.judges.questions import question_text
from benchmarks.judges.ratings import QUESTIONS, Item
from concept_das.errors import InputError
from concept_das.methods import TrainedMethod, find_method
from concept_das.words import Direction

Neutral = Literal["given", "model", "api"]

# Mean lengths in tokens (SmolLM2's) of 720 AxBench training rows (2B, layer 20, 10 concepts) and of
# AlpacaEval's 805 instructions; a neutral response is taken to be as long as the concept's. A
# concept in words is in characters.
_TRAINING_INSTRUCTION, _TEST_INSTRUCTION, _RESPONSE, _CONCEPT_CHARACTERS = 16, 37, 103, 60
# The request for a neutral response, beside the instruction.
_REQUEST = 100


@dataclass(frozen=True)
class Estimate:
    """The counts of a run over all concepts.

    Attributes:
        methods: a row per method: training `rows` and `steps`, `multipliers`, `directions`,
            generated `answers`, and their `new_tokens` if all are of full length.
        requests: to an endpoint, of judge and neutral responses.
        prompt_tokens, completion_tokens: of these requests, estimated.
    """

    methods: pd.DataFrame
    requests: int
    prompt_tokens: float
    completion_tokens: float

    def dollars(self, model: str) -> float | None:
        """Estimated cost at a model's list price; None if the price is not known."""
        price = PRICES.get(model)
        return None if price is None else price.of(self.prompt_tokens, self.completion_tokens)


def estimate(
    preset: Preset,
    *,
    concepts: int,
    rows_per_concept: int = 72,
    neutral: Neutral = "given",
    directions: Sequence[Direction] = ("elicit",),
) -> Estimate:
    """Count what a run of a preset will do; nothing is loaded or downloaded.

    Args:
        concepts: their number.
        rows_per_concept: training quadruples of each (72 in AxBench), where the preset sets none.
        neutral: neutral responses are in the data, or made by the model itself, or by an endpoint.
        directions: of the answers, where a method has them (AxBench: elicit alone).

    Raises:
        InputError: if a number is below 1, or `neutral` is none of these.
    """
    for name, value in (("concepts", concepts), ("rows_per_concept", rows_per_concept)):
        if value < 1:
            raise InputError(f"{name} is {value}; an estimate needs at least 1")
    if neutral not in get_args(Neutral):
        raise InputError(f"unknown neutral {neutral!r}; choose given, model or api")
    rows = min(preset.rows or rows_per_concept, rows_per_concept)
    table = pd.DataFrame(
        [_method(preset, name, concepts, rows, directions) for name in preset.methods]
    )
    judged = int(table["answers"].sum()) if preset.judge == "api" else 0
    written = concepts * rows_per_concept if neutral == "api" else 0
    return Estimate(
        methods=table,
        requests=judged * len(QUESTIONS) + written,
        prompt_tokens=judged * _question_tokens(preset.new_tokens)
        + written * (_TRAINING_INSTRUCTION + _REQUEST),
        completion_tokens=judged * len(QUESTIONS) * EXPECTED_TOKENS + written * _RESPONSE,
    )


def estimate_text(
    preset: Preset, found: Estimate, *, concepts: int, neutral: Neutral, judge_model: str
) -> str:
    """An estimate in words and a table.

    Args:
        judge_model: the endpoint's, whose price is taken.
    """
    counts = found.methods.set_index("method").map("{:,}".format).reset_index()
    lines = [
        f"{preset.name}: {preset.model}, layer {preset.layer}, {concepts} concepts. Nothing has "
        "been run.",
        "",
        counts.to_string(index=False),
        "",
        f"neutral responses: {'in the data' if neutral == 'given' else f'by the {neutral}'}",
        f"judge: {preset.judge}",
    ]
    if found.requests:
        dollars = found.dollars(judge_model)
        cost = f"about ${dollars:,.2f}" if dollars is not None else "of unknown price"
        lines += [
            f"endpoint: {found.requests:,} requests, {found.prompt_tokens / 1e6:,.1f} million "
            f"tokens in and {found.completion_tokens / 1e6:,.1f} out, {cost} at {judge_model}'s "
            f"list price ({CHARACTERS_PER_TOKEN} characters a token, {EXPECTED_TOKENS} tokens of "
            "rating)"
        ]
    lines.append("hours: run one concept (--concepts 0) and multiply")
    return "\n".join(lines)


def _method(
    preset: Preset, name: str, concepts: int, rows: int, directions: Sequence[Direction]
) -> dict[str, Any]:
    """A method's counts over all concepts."""
    config, method = preset.configs[name], find_method(name)
    steps = config.epochs * ceil(rows / config.batch_size)
    ways = [direction for direction in directions if direction in method.directions]
    strengths = len(preset.strengths(name))
    answers = concepts * preset.instructions_per_concept * strengths * len(ways)
    return {
        "method": name,
        "rows": concepts * rows,
        "steps": concepts * steps if isinstance(method, TrainedMethod) else 0,
        "multipliers": strengths,
        "directions": len(ways),
        "answers": answers,
        "new_tokens": answers * preset.new_tokens,
    }


def _question_tokens(response: int) -> int:
    """Tokens of the questions about an answer."""
    item = Item(
        instruction="x" * (_TEST_INSTRUCTION * CHARACTERS_PER_TOKEN),
        response="x" * (response * CHARACTERS_PER_TOKEN),
        concept="x" * _CONCEPT_CHARACTERS,
    )
    return sum(approximate_tokens(question_text(question, item)) for question in QUESTIONS)
