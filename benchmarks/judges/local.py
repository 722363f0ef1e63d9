"""A chat model on this machine as judge."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.judges.questions import parse_rating, question_text, questions_about, ratings_of
from benchmarks.judges.ratings import Item, Rating
from concept_das.data.chat_format import ChatFormat
from concept_das.models.loading import LoadedModel
from concept_das.steering.generation import generate_responses


@dataclass(frozen=True)
class LocalJudge:
    """Asks a chat model the questions that an endpoint is asked, decoding greedily.

    A malformed answer is asked again with a reminder, and is missing after the last attempt. A
    response without text is rated 0 without asking.

    Attributes:
        loaded: the judge, unsteered; not inside a `steer` block.
        max_new_tokens: length of an answer.
        attempts: a question is asked at most so often until its answer can be read.
    """

    loaded: LoadedModel
    max_new_tokens: int = 300
    attempts: int = 3

    kind: Literal["local"] = field(default="local", init=False)

    @property
    def name(self) -> str:
        """For tables."""
        return f"local {self.loaded.name}"

    def rate(self, items: Sequence[Item]) -> list[Rating]:
        """One rating per item, in order; equal questions are asked once."""
        chat = ChatFormat.of(self.loaded.tokenizer)
        asked = questions_about(items)
        values: dict[str, int | None] = dict.fromkeys(asked)
        for reminders in range(self.attempts):
            todo = [text for text in asked if values[text] is None]
            if not todo:
                break
            texts = [question_text(*asked[text], reminders=reminders) for text in todo]
            answers = generate_responses(
                self.loaded.model,
                chat,
                [chat.prompt(text) for text in texts],
                max_new_tokens=self.max_new_tokens,
            )
            values |= dict(zip(todo, map(parse_rating, answers), strict=True))
        return ratings_of(items, values, self.name)
