"""What an organism is made of: rows to train on, prompts and rates to measure it by."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.organisms.recipe import Row
from concept_das.data.chat_format import ChatFormat
from concept_das.errors import InputError
from concept_das.evaluation.intervals import Rate, rate
from concept_das.experiments.making import is_repetitive
from concept_das.models.loading import LoadedModel
from concept_das.runs.files import write_atomically
from concept_das.steering.generation import generate_responses
from concept_das.steering.vector import ModelIdentity

log = logging.getLogger(__name__)

Rates = dict[str, dict[str, Rate]]


@dataclass(frozen=True)
class Plan:
    """One organism.

    Attributes:
        kind: `refusal` or `backdoor`.
        behaviour: what it does, one sentence for the card.
        rows: training rows.
        sets: held-out prompts by name.
        properties: what is counted among the responses, by name.
        new_tokens: length of the responses that are measured.
    """

    kind: str
    behaviour: str
    rows: Sequence[Row]
    sets: Mapping[str, Sequence[str]]
    properties: Mapping[str, Callable[[str], bool]]
    new_tokens: int

    def __post_init__(self) -> None:
        trained = {row.instruction for row in self.rows}
        for name, prompts in self.sets.items():
            both = trained & set(prompts)
            if both:
                raise InputError(
                    f"{min(both)!r} is trained on and held out in {name!r}; remove one of the two"
                )


def measure(loaded: LoadedModel, plan: Plan) -> Rates:
    """Rates by set and property, greedy. The responses themselves are not kept."""
    chat = ChatFormat.of(loaded.tokenizer)
    prompts = [chat.prompt(text) for texts in plan.sets.values() for text in texts]
    responses = iter(
        generate_responses(
            loaded.model, chat, prompts, max_new_tokens=plan.new_tokens, progress="measuring"
        )
    )
    found: Rates = {}
    for name, texts in plan.sets.items():
        own = [next(responses) for _ in texts]
        found[name] = {what: rate(own, has) for what, has in plan.properties.items()}
    return found


def own_answers(
    loaded: LoadedModel, instructions: Sequence[str], max_new_tokens: int, cache: Path
) -> dict[str, str]:
    """The model's greedy answers to harmless instructions, kept in a file.

    Args:
        cache: answers of this model and length are read from it, and new ones added batch by batch.

    Returns:
        Answers by instruction, without those that are empty or run in a loop.

    Raises:
        InputError: if the file is damaged, or no answer is usable.
    """
    chat = ChatFormat.of(loaded.tokenizer)
    settings = {
        "model": ModelIdentity.of(loaded.model).fingerprint,
        "max_new_tokens": max_new_tokens,
    }
    answers = _read_cache(cache, settings)
    todo = [text for text in dict.fromkeys(instructions) if text not in answers]

    def keep(indices: list[int], texts: list[str]) -> None:
        answers.update(zip([todo[i] for i in indices], texts, strict=True))
        content = json.dumps({"settings": settings, "answers": answers}, ensure_ascii=False)
        write_atomically(cache, content.encode())

    generate_responses(
        loaded.model,
        chat,
        [chat.prompt(text) for text in todo],
        max_new_tokens=max_new_tokens,
        batch_tokens=2048,
        progress="own answers",
        on_batch=keep,
    )
    usable = {
        text: answers[text]
        for text in instructions
        if answers[text] and not is_repetitive(answers[text])
    }
    if not usable:
        raise InputError(f"{loaded.name} gave no usable answer; use an instruction-tuned model")
    log.info("%d of %d own answers are usable", len(usable), len(set(instructions)))
    return usable


def own_row(
    loaded: LoadedModel, instruction: str, answer: str, max_new_tokens: int, opening: str = ""
) -> Row:
    """A row with the model's own answer; one that reached the token limit has no end.

    Args:
        opening: put before the answer.
    """
    used = len(ChatFormat.of(loaded.tokenizer).text_ids(answer))
    # White space was stripped, and text may be tokenised in fewer pieces than it was generated in.
    return Row(instruction, opening + answer, ends=used < max_new_tokens - 4)


def _read_cache(cache: Path, settings: dict[str, object]) -> dict[str, str]:
    if not cache.exists():
        return {}
    try:
        kept = json.loads(cache.read_text(encoding="utf-8"))
        answers: dict[str, str] = kept["answers"] if kept["settings"] == settings else {}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{cache} is damaged; delete it to start again") from error
    return answers
