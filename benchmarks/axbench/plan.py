"""What a run of the benchmark amounts to, before anything is run: steps, tokens, hours, dollars.

Rows, steps, answers and requests follow from the preset. Tokens, hours and dollars are estimates;
`Plan.text` prints what they rest on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import pandas as pd

from benchmarks.axbench.plan_text import STAGES, plan_lines
from benchmarks.axbench.presets import Preset
from benchmarks.axbench.work import (
    DecodingWork,
    Lengths,
    decoding_work,
    has_direction,
    latent_flops,
    training_work,
)
from benchmarks.hardware import Hardware, Share, engine_share, find_hardware
from benchmarks.judges.endpoint import EXPECTED_TOKENS
from benchmarks.judges.prices import CHARACTERS_PER_TOKEN, Price, approximate_tokens
from benchmarks.judges.questions import question_text
from benchmarks.judges.ratings import QUESTIONS, Item
from benchmarks.shapes import ModelShape, find_shape
from concept_das.errors import InputError
from concept_das.methods.registry import find_method
from concept_das.words import Direction

Neutral = Literal["given", "model", "api"]

# The request for a neutral response, beside the instruction; and a concept in words.
_REQUEST_TOKENS, _CONCEPT_CHARACTERS = 100, 60

_COUNTS = (
    "rows",
    "steps",
    "training_tokens",
    "multipliers",
    "directions",
    "answers",
    "new_tokens",
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "flops",
    "decode_steps",
    "decode_flops",
    "decode_numbers",
)


@dataclass(frozen=True)
class Plan:
    """Everything a run will do.

    Attributes:
        preset: what is run.
        shape: the model's sizes.
        lengths: mean lengths that tokens are counted with.
        concepts, rows_per_concept: of training data.
        neutral: where the neutral responses come from.
        directions: those that answers are generated in, where a method has them.
        table: one row per `stage` and `method` (`all` for the data). Counts over all concepts:
            training `rows`, `steps`, `training_tokens` (of the edited runs, prompt and response);
            `multipliers` and `directions` of a method; generated `answers` and their `new_tokens`;
            `requests` to an endpoint with their `prompt_tokens` and `completion_tokens`; `flops`
            but for decoding; `decode_steps` of batches, and of one such step `decode_flops` and
            `decode_numbers`, the weights, keys and values that it reads.
    """

    preset: Preset
    shape: ModelShape
    lengths: Lengths
    concepts: int
    rows_per_concept: int
    neutral: Neutral
    directions: tuple[Direction, ...]
    table: pd.DataFrame

    def hours(self, hardware: Hardware, share: Share) -> pd.Series:
        """Estimated hours of each row of the table, judging by an endpoint not counted."""
        rate = hardware.flops * share.value
        bandwidth = hardware.bandwidth * share.value
        compute = self.table["decode_flops"] / rate
        memory = self.table["decode_numbers"] * hardware.bytes_per_number / bandwidth
        step = compute.where(compute > memory, memory)
        return (self.table["flops"] / rate + self.table["decode_steps"] * step) / 3600

    def dollars(self, price: Price) -> pd.Series:
        """Estimated dollars of each row of the table."""
        prompt, completion = self.table["prompt_tokens"], self.table["completion_tokens"]
        return (price.prompt * prompt + price.completion * completion) / 1e6

    def text(self, gpu: str, judge_model: str) -> str:
        """The plan in words and tables.

        Args:
            gpu: a name in `benchmarks.hardware.GPUS`, or `cpu` for this machine.
            judge_model: whose price is taken, for judging and for neutral responses by an endpoint.

        Raises:
            InputError: if the hardware is unknown.
        """
        return "\n".join(plan_lines(self, find_hardware(gpu), engine_share(), judge_model))


def plan(
    preset: Preset,
    *,
    concepts: int,
    rows_per_concept: int = 72,
    neutral: Neutral = "given",
    lengths: Lengths | None = None,
    directions: Sequence[Direction] = ("elicit",),
    batch_tokens: int = 8192,
) -> Plan:
    """Count everything that a run of a preset will do; nothing is loaded or downloaded.

    Args:
        concepts: how many.
        rows_per_concept: training quadruples of each (72 in AxBench).
        neutral: neutral responses are in the data, or made by the model itself, or by an endpoint.
        lengths: mean lengths of the texts; `Lengths.of` measures them. Assumed ones if None.
        directions: of the answers, where a method has them (AxBench: elicit alone).
        batch_tokens: of a batch of answers, see `generate_responses`.

    Raises:
        InputError: if a number is below 1, or the model's sizes are not known.
    """
    for name, value in (
        ("concepts", concepts),
        ("rows_per_concept", rows_per_concept),
        ("batch_tokens", batch_tokens),
        ("instructions_per_concept", preset.instructions_per_concept),
        ("directions", len(directions)),
    ):
        if value < 1:
            raise InputError(f"{name} is {value}; a plan needs at least 1")
    if neutral not in get_args(Neutral):
        raise InputError(f"unknown neutral {neutral!r}; choose given, model or api")
    shape = find_shape(preset.model)
    lengths = lengths or Lengths()
    records: list[dict[str, Any]] = [
        _data(preset, shape, lengths, concepts * rows_per_concept, neutral, batch_tokens)
    ]
    for name in preset.methods:
        records += _method(
            preset, name, shape, lengths, concepts, rows_per_concept, directions, batch_tokens
        )
    table = pd.DataFrame(records, columns=["stage", "method", *_COUNTS])
    table[list(_COUNTS)] = table[list(_COUNTS)].astype(float).fillna(0.0)
    order = {stage: number for number, stage in enumerate(STAGES)}
    table = table.sort_values("stage", key=lambda stages: stages.map(order), kind="stable")
    return Plan(
        preset,
        shape,
        lengths,
        concepts,
        rows_per_concept,
        neutral,
        tuple(directions),
        table.reset_index(drop=True),
    )


def _data(
    preset: Preset,
    shape: ModelShape,
    lengths: Lengths,
    rows: int,
    neutral: Neutral,
    batch_tokens: int,
) -> dict[str, Any]:
    """Making the neutral responses."""
    record: dict[str, Any] = {"stage": "data", "method": "all", "rows": rows}
    if neutral == "api":
        record["requests"] = rows
        record["prompt_tokens"] = rows * (lengths.neutral_input + _REQUEST_TOKENS)
        record["completion_tokens"] = rows * lengths.neutral_output
    if neutral == "model":
        prompt = lengths.prefix + round(lengths.neutral_input) + lengths.suffix
        longest = max(config.max_response_tokens for config in preset.configs.values())
        record |= _decoded(decoding_work(shape, rows, prompt, longest, batch_tokens))
    return record


def _method(
    preset: Preset,
    name: str,
    shape: ModelShape,
    lengths: Lengths,
    concepts: int,
    rows: int,
    directions: Sequence[Direction],
    batch_tokens: int,
) -> Iterator[dict[str, Any]]:
    """A method's stages."""
    config = preset.configs[name]
    training = training_work(shape, config, preset.layer, rows, lengths)
    yield {
        "stage": "train",
        "method": name,
        "rows": concepts * rows,
        "steps": concepts * training.steps,
        "training_tokens": concepts * training.tokens,
        "flops": concepts * (training.cache_flops + training.step_flops),
    }
    if has_direction(name):
        flops = latent_flops(shape, config, preset.layer, rows, lengths)
        yield {"stage": "latents", "method": name, "flops": concepts * flops}
    ways = [direction for direction in directions if direction in find_method(name).directions]
    strengths = len(preset.strengths(name))
    answers = concepts * preset.instructions_per_concept * strengths * len(ways)
    work = decoding_work(shape, answers, lengths.test_prompt, preset.new_tokens, batch_tokens)
    yield {
        "stage": "generate",
        "method": name,
        "multipliers": strengths,
        "directions": len(ways),
        **_decoded(work),
    }
    asked = answers if preset.judge == "api" else 0
    yield {
        "stage": "judge",
        "method": name,
        "answers": answers,
        "requests": asked * len(QUESTIONS),
        "prompt_tokens": asked * _question_tokens(lengths.test_input, preset.new_tokens),
        "completion_tokens": asked * len(QUESTIONS) * EXPECTED_TOKENS,
    }


def _decoded(work: DecodingWork) -> dict[str, float]:
    found = asdict(work)
    return {
        "answers": found["answers"],
        "new_tokens": found["tokens"],
        "flops": found["prefill_flops"],
        "decode_steps": found["steps"],
        "decode_flops": found["step_flops"],
        "decode_numbers": found["step_numbers"],
    }


def _question_tokens(instruction: float, response: int) -> int:
    """Tokens of the three questions about an answer."""
    item = Item(
        instruction="x" * round(instruction * CHARACTERS_PER_TOKEN),
        response="x" * (response * CHARACTERS_PER_TOKEN),
        concept="x" * _CONCEPT_CHARACTERS,
    )
    return sum(approximate_tokens(question_text(question, item)) for question in QUESTIONS)
