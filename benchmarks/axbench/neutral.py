"""Neutral responses by an API model, for concepts that have none.

AxBench has responses with the concept only. The release adds a neutral one to the same instruction,
written by gpt-4o-mini at temperature 0.3, which is told to answer naturally, to keep clear of the
concept and to return plain text. The same is done here; the wording is this project's own. The
model under study can write them as well (`concept_das.make_quadruples`), into the same rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from benchmarks.judges.client import Endpoint
from benchmarks.judges.prices import Estimate
from concept_das.data.axbench_file import AxBenchConcept
from concept_das.data.concept_prompts import TOPIC_PROMPT
from concept_das.data.quadruples import Quadruple
from concept_das.experiments.making import quadruples_of_answers

TEMPERATURE = 0.3

MAX_TOKENS = 192
"""Enough for 128 tokens of any model's tokenizer, which is where training cuts responses off."""

EXPECTED_TOKENS = 90
"""The release paid about $2.4 for 36,000 responses, which comes to this many tokens each."""

# Who writes neutral responses: the model under study, or an API model.
Neutral = Literal["model", "api"]


def neutral_text(instruction: str, concept: str) -> str:
    """The request for one neutral response."""
    return (
        "Respond to the instruction below in a natural way, with one restriction: your response "
        "must not mention the concept given here, hint at it, or touch on it in any way. Do not "
        "say that there is a restriction. Write plain text, without any formatting, and nothing "
        "but the response.\n\n"
        f"Concept to keep out: {concept}\n\nInstruction: {instruction}"
    )


def estimate_neutral(endpoint: Endpoint, concepts: Iterable[AxBenchConcept]) -> Estimate:
    """The cost of the neutral responses of these concepts; needs no key and no connection."""
    texts = [
        neutral_text(text, source.concept) for source in concepts for text in source.instructions
    ]
    return _writer(endpoint).estimate(texts, EXPECTED_TOKENS)


def neutral_responses(
    endpoint: Endpoint, concept: str, instructions: Sequence[str]
) -> dict[str, str]:
    """A response without the concept to every instruction, which may break off at `MAX_TOKENS`.

    Args:
        endpoint: asked at `TEMPERATURE`, whatever its own. Answers come from its cache where they
            are there, so that a rerun costs nothing and gives the same.

    Returns:
        By instruction.

    Raises:
        InputError, UnfinishedError, EndpointError: see `Endpoint.answers`.
    """
    texts = [neutral_text(instruction, concept) for instruction in instructions]
    answers = _writer(endpoint).answers(texts)
    return {
        instruction: answer.text.strip()
        for instruction, answer in zip(instructions, answers, strict=True)
    }


def neutral_quadruples(
    endpoint: Endpoint, source: AxBenchConcept, concept_id: int
) -> list[Quadruple]:
    """The quadruples of an AxBench concept, their neutral responses written by the endpoint.

    Returns:
        In the order of the instructions. Rows with a response that is empty or runs in a loop are
        left out, with a warning.

    Raises:
        InputError, UnfinishedError, EndpointError: see `Endpoint.answers`.
    """
    neutral = neutral_responses(endpoint, source.concept, source.instructions)
    return quadruples_of_answers(
        source.concept,
        source.instructions,
        [neutral[instruction] for instruction in source.instructions],
        source.outputs,
        template=TOPIC_PROMPT,
        concept_id=concept_id,
        genre=source.genre,
    )


def _writer(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, temperature=TEMPERATURE, max_tokens=MAX_TOKENS)
