"""Make contrastive quadruples from a concept described in plain words.

The model writes both responses itself: to the bare instruction, and to the instruction that asks
for the concept. No other model and no API key are needed. Finished answers are saved batch by
batch, so an interrupted run continues where it stopped.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from concept_das.data.chat_format import ChatFormat
from concept_das.data.concept_prompts import CONCEPT_PROMPT, concept_input
from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError
from concept_das.models.identity import ModelIdentity
from concept_das.models.loading import LoadedModel
from concept_das.runs.files import fingerprint_of
from concept_das.runs.rows import RowLog
from concept_das.steering.generation import generate_responses

log = logging.getLogger(__name__)


def make_quadruples(
    loaded: LoadedModel,
    chat: ChatFormat,
    concept: str,
    instructions: Sequence[str],
    *,
    template: str = CONCEPT_PROMPT,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    batch_tokens: int = 8192,
    seed: int = 42,
    concept_id: int = 0,
    genre: str = "text",
    concept_outputs: Sequence[str] | None = None,
    partial: Path | None = None,
) -> list[Quadruple]:
    """Let the model answer every instruction with and without the concept.

    Args:
        concept: an imperative in plain words, "Talk like a pirate".
        template: text with `{instruction}` and `{concept}`.
        max_new_tokens: length of a response.
        temperature: 0 decodes greedily.
        top_k, top_p, batch_tokens: see `generate_responses`.
        seed: of the sampling; an answer depends on it and on the text that is answered.
        concept_outputs: concept responses that exist already, one per instruction; the model then
            writes the neutral responses only.
        partial: file that keeps finished answers until all are there.

    Returns:
        The rows; those whose answer is empty or runs in a loop are dropped, with a warning.

    Raises:
        InputError: if the concept or an instruction is empty, or `partial` is of another run.
    """
    if not concept.strip():
        raise InputError("the concept is empty; describe it in a few words")
    if "{instruction}" not in template or "{concept}" not in template:
        raise InputError("the template must hold {instruction} and {concept}")
    asked = [concept_input(instruction, concept, template) for instruction in instructions]
    given = dict(zip(asked, concept_outputs or (), strict=concept_outputs is not None))
    # A text that occurs twice is answered once.
    inputs = [text for text in dict.fromkeys((*instructions, *asked)) if text not in given]
    prompts = {text: chat.prompt(text) for text in inputs}
    settings = {
        "model": loaded.name,
        "system": chat.system,
        **chat.template.given,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        **{name: value for name, value in {"top_k": top_k, "top_p": top_p}.items() if value},
        "seed": seed,
    }
    earlier = fingerprint_of(settings)
    settings |= {
        "weights": ModelIdentity.of(loaded.model).fingerprint,
        "chat": chat.description,
    }
    fingerprint = fingerprint_of(settings)
    with RowLog(partial, fingerprint, keep_others=True, earlier=earlier) as finished:
        todo = finished.missing(inputs)

        def keep(indices: list[int], texts: list[str]) -> None:
            for i, text in zip(indices, texts, strict=True):
                finished.append(todo[i], {"answer": text})

        generate_responses(
            loaded.model,
            chat,
            [prompts[text] for text in todo],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            keys=todo,  # so that an interrupted run samples the same answers as a whole one
            batch_tokens=batch_tokens,
            progress="data",
            on_batch=keep,
        )
        found = finished.frame(inputs)
    answers = dict(zip(inputs, found["answer"], strict=True)) if inputs else {}
    answers.update(given)
    return quadruples_of_answers(
        concept,
        instructions,
        [answers[text] for text in instructions],
        [answers[text] for text in asked],
        template=template,
        concept_id=concept_id,
        genre=genre,
    )


def quadruples_of_answers(
    concept: str,
    instructions: Sequence[str],
    neutral_outputs: Sequence[str],
    concept_outputs: Sequence[str],
    *,
    template: str = CONCEPT_PROMPT,
    concept_id: int = 0,
    genre: str = "text",
) -> list[Quadruple]:
    """Put existing responses together as rows.

    Args:
        neutral_outputs: response to each bare instruction.
        concept_outputs: response to each instruction with the concept.

    Returns:
        The rows; those with a response that is empty or runs in a loop are dropped, with a warning.
    """
    rows = []
    for instruction, *answered in zip(instructions, neutral_outputs, concept_outputs, strict=True):
        neutral, with_concept = answered
        if not all(answered):
            log.warning("dropped %r: the model gave an empty answer", instruction)
        elif any(is_repetitive(text) for text in answered):
            log.warning("dropped %r: the model repeats itself", instruction)
        else:
            request = concept_input(instruction, concept, template)
            rows.append(
                Quadruple(instruction, neutral, request, with_concept, concept_id, concept, genre)
            )
    return rows


def is_repetitive(text: str) -> bool:
    """True if a text runs in a loop: over half of its word trigrams occurred before."""
    words = text.split()
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return len(trigrams) >= 8 and len(set(trigrams)) < len(trigrams) / 2
