"""A model behind an OpenAI-compatible endpoint as judge: `gpt-4o-mini`, or one served by yourself.

`client` sends the questions and counts what they cost.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.judges.answer_cache import Answer
from benchmarks.judges.client import Endpoint
from benchmarks.judges.prices import Estimate
from benchmarks.judges.questions import parse_rating, question_text, questions_about, ratings_of
from benchmarks.judges.ratings import Item, Rating
from concept_das.errors import InputError

EXPECTED_TOKENS = 80
"""Two sentences of explanation and the rating."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EndpointJudge:
    """Asks an endpoint the three questions about each response, one request per question.

    A malformed answer (no rating, one out of range, cut off, empty) is asked again with a
    reminder, and is missing after the last attempt. So is one that the endpoint fails to give,
    which is not cached. A response without text is rated 0 without asking.

    Attributes:
        endpoint: the model.
        attempts: a question is asked at most so often until its answer can be read.
    """

    endpoint: Endpoint
    attempts: int = 3

    kind: Literal["api"] = field(default="api", init=False)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InputError(f"attempts of a judge must be at least 1, not {self.attempts}")

    @property
    def name(self) -> str:
        """For tables."""
        return f"api {self.endpoint.model}"

    def estimate(self, items: Sequence[Item]) -> Estimate:
        """Requests and cost of `rate`; needs no key and no connection."""
        return self.endpoint.estimate(questions_about(items), EXPECTED_TOKENS)

    def rate(self, items: Sequence[Item]) -> list[Rating]:
        """One rating per item, in order; equal questions are asked once.

        Raises:
            InputError, EndpointError: see `Endpoint.answers`.
        """
        questions = questions_about(items)
        log.info("%s: %s", self.name, self.estimate(items))

        def again(text: str, asked: int, answer: Answer) -> str | None:
            if _rating(answer) is not None:
                return None
            question, item = questions[text]
            if asked < self.attempts:
                return question_text(question, item, reminders=asked)
            log.warning("no rating for %s in %d attempts", question, self.attempts)
            return None

        answers = self.endpoint.answers(list(questions), again=again, label=self.name)
        values = dict(zip(questions, map(_rating, answers), strict=True))
        return ratings_of(items, values, self.name)


def _rating(answer: Answer | None) -> int | None:
    """The rating in an answer; None if there is no answer, or it was cut off."""
    return parse_rating(answer.text) if answer is not None and answer.complete else None
