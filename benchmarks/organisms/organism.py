"""An organism before it is made: rows to train on, prompts and rates to measure it by."""

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
from concept_das.runs.rows import RowLog
from concept_das.steering.generation import generate_responses
from concept_das.steering.vector import ModelIdentity

log = logging.getLogger(__name__)

Rates = dict[str, dict[str, Rate]]


@dataclass(frozen=True)
class Organism:
    """One organism.

    Attributes:
        kind: `refusal` or `backdoor`.
        behaviour: one sentence for the card.
        rows: training rows.
        sets: held-out prompts by name.
        properties: tests of a response by name; the card counts the responses that pass.
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


def measure(loaded: LoadedModel, organism: Organism) -> Rates:
    """Rates by set and property, greedy. The responses themselves are not kept."""
    chat = ChatFormat.of(loaded.tokenizer)
    prompts = [chat.prompt(text) for texts in organism.sets.values() for text in texts]
    length = organism.new_tokens
    responses = iter(
        generate_responses(loaded.model, chat, prompts, max_new_tokens=length, progress="measuring")
    )
    found: Rates = {}
    for name, texts in organism.sets.items():
        own = [next(responses) for _ in texts]
        found[name] = {what: rate(own, has) for what, has in organism.properties.items()}
    return found


def own_answers(
    loaded: LoadedModel, instructions: Sequence[str], max_new_tokens: int, cache: Path
) -> dict[str, str]:
    """The model's greedy answers to harmless instructions, each kept on disk once it is there.

    Args:
        cache: row log of the answers of this model and length; what is in it is not asked again.

    Returns:
        Answers by instruction, without those that are empty or run in a loop.

    Raises:
        InputError: if the file is damaged, or no answer is usable.
    """
    chat = ChatFormat.of(loaded.tokenizer)
    different = list(dict.fromkeys(instructions))
    fingerprint = f"{ModelIdentity.of(loaded.model).fingerprint} {max_new_tokens}"
    with RowLog(cache, fingerprint) as rows:
        todo = rows.missing(different)

        def keep(indices: list[int], texts: list[str]) -> None:
            for i, text in zip(indices, texts, strict=True):
                rows.append(todo[i], {"answer": text})

        generate_responses(
            loaded.model,
            chat,
            [chat.prompt(text) for text in todo],
            max_new_tokens=max_new_tokens,
            batch_tokens=2048,
            progress="own answers",
            on_batch=keep,
        )
        answers = dict(zip(different, rows.frame(different)["answer"], strict=True))
    usable = {
        text: answer for text, answer in answers.items() if answer and not is_repetitive(answer)
    }
    if not usable:
        raise InputError(f"{loaded.name} gave no usable answer; use an instruction-tuned model")
    log.info("%d of %d own answers are usable", len(usable), len(different))
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
