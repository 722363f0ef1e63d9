"""The three questions put to a language model, the reading of its answer, and the judge that asks.

AxBench asks the same three, one at a time, each answered by an explanation and a rating of 0, 1 or
2 (arXiv 2501.17148); the wording here is this project's own. AxBench's is read from a file of the
user's (`axbench_questions`).
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from string import Template

from benchmarks.judges.answer_cache import Answer
from benchmarks.judges.axbench_questions import Questions, ask, digest
from benchmarks.judges.client import Endpoint
from benchmarks.judges.local import LocalModel
from benchmarks.judges.ratings import (
    EMPTY_RESPONSE,
    HIGHEST,
    QUESTIONS,
    Item,
    Kind,
    Question,
    Rating,
)

EXPECTED_TOKENS = 80
"""Two sentences of explanation and the rating."""

ATTEMPTS = 3
"""A question is asked at most so often until its answer can be read."""

log = logging.getLogger(__name__)

_FORM = (
    "First explain your choice in one or two sentences. Then end with one line that holds only "
    "the rating, in this form, with 0, 1 or 2 in place of n:\nRating: [[n]]"
)

_QUESTIONS: dict[Question, str] = {
    "concept": (
        "Below are a concept and a text that a language model wrote. Judge how clearly the concept "
        "shows in the text. Nothing else counts: not whether the text is correct, well written "
        "or complete.\n\n"
        "0: the concept does not show in the text.\n"
        "1: the concept shows a little, or only in passing, or in a forced way.\n"
        "2: the concept is clearly part of the text.\n\n"
        "<concept>\n$concept\n</concept>\n\n<text>\n$response\n</text>"
    ),
    "instruct": (
        "Below are an instruction and a text that a language model wrote, which may break off. "
        "Judge whether the text is about what the instruction asks for. Only the topic counts: not "
        "whether the text is correct, well written or complete, or what else it brings in.\n\n"
        "0: the text has nothing to do with the instruction.\n"
        "1: the text touches on the instruction's topic, but is mostly about something else.\n"
        "2: the text is about the instruction's topic.\n\n"
        "<instruction>\n$instruction\n</instruction>\n\n<text>\n$response\n</text>"
    ),
    "fluency": (
        "Below is a text that a language model wrote, which may break off. Judge how fluent it is "
        "as language. Nothing else counts: not what it says, nor whether it is true or "
        "complete.\n\n"
        "0: the text is not fluent: it is garbled, falls apart, or keeps repeating itself.\n"
        "1: the text can be read, but has clear mistakes, or sounds unnatural or repetitive.\n"
        "2: the text is fluent.\n\n"
        "<text>\n$response\n</text>"
    ),
}


def question_text(question: Question, item: Item, *, reminders: int = 0) -> str:
    """The whole text of one question about one response, as a user's message.

    Args:
        reminders: how often the judge has answered in another form. Each count gives another text,
            so that a judge without randomness may answer differently, and a cache of answers
            does not return the same one.
    """
    text = f"{Template(_QUESTIONS[question]).substitute(asdict(item))}\n\n{_FORM}"
    if reminders:
        text += (
            f"\n\nReminder {reminders}: without that last line, exactly in this form, your answer "
            "cannot be read."
        )
    return text


def own_digest() -> str:
    """A hash of this project's wording."""
    return digest({name: f"{text}\n\n{_FORM}" for name, text in _QUESTIONS.items()})


_LABEL = re.compile(r"(?<![^\W_])rating[\s*_]*:", re.IGNORECASE)
_NUMBER = r"(?:\[\[\s*(\d)\s*\]\]|\[\s*(\d)\s*\]|(\d))"
_VALUE = re.compile(rf"[\s*_]*{_NUMBER}[\s*_.]*", re.ASCII)


def parse_rating(answer: str) -> int | None:
    """The rating that an answer ends with, or None if it is malformed.

    The last `Rating:` counts; earlier ones may be part of the explanation. After it, on the same
    line or the next, comes the number alone: `[[2]]`, `[2]` or `2`, in bold or not, with or without
    a full stop. Anything else is malformed, and no earlier rating takes its place: a number out
    of range (3, -1), one that is not an integer (1.5, 2.0), two of them (`1 or 2`, `1/2`), words.
    """
    labels = list(_LABEL.finditer(answer))
    if not labels:
        return None
    lines = [line for line in answer[labels[-1].end() :].splitlines() if line.strip(" \t*_")]
    found = _VALUE.fullmatch(lines[0]) if lines else None
    if found is None:
        return None
    value = int(next(group for group in found.groups() if group is not None))
    return value if value <= HIGHEST else None


@dataclass(frozen=True)
class ModelJudge:
    """Asks a language model the three questions about each response, one at a time.

    A malformed answer (no rating, one out of range, cut off, empty) is asked again with a
    reminder, and is missing after the last attempt. A response without text is rated 0 without
    asking.

    Attributes:
        model: an OpenAI-compatible endpoint, or a chat model on this machine.
        axbench: AxBench's own questions, each of which is asked once, as AxBench does; this
            project's if None.
    """

    model: Endpoint | LocalModel
    axbench: Questions | None = None

    @property
    def kind(self) -> Kind:
        """The kind of model."""
        return self.model.kind

    @property
    def name(self) -> str:
        """For tables."""
        return self.model.name

    def rate(self, items: Sequence[Item]) -> list[Rating]:
        """One rating per item, in order; equal questions are asked once.

        Raises:
            InputError, UnfinishedError, EndpointError: see `Endpoint.answers`.
        """
        questions = {
            self._text(question, item): (question, item)
            for item in items
            if item.response.strip()
            for question in QUESTIONS
        }
        if isinstance(self.model, Endpoint):
            log.info("%s: %s", self.name, self.model.estimate(questions, EXPECTED_TOKENS))

        def again(text: str, asked: int, answer: Answer) -> str | None:
            if _rating(answer) is not None or asked == ATTEMPTS or self.axbench is not None:
                return None
            return question_text(*questions[text], reminders=asked)

        answers = self.model.answers(list(questions), again=again)
        values = dict(zip(questions, map(_rating, answers), strict=True))
        missing = sum(value is None for value in values.values())
        if missing:
            log.warning("%s: %d of %d ratings are missing", self.name, missing, len(values))
        return [
            Rating(*(values[self._text(question, item)] for question in QUESTIONS))
            if item.response.strip()
            else EMPTY_RESPONSE
            for item in items
        ]

    def _text(self, question: Question, item: Item) -> str:
        if self.axbench is None:
            return question_text(question, item)
        return ask(self.axbench, question, item)


def _rating(answer: Answer) -> int | None:
    """The rating in an answer; None if there is none, or it was cut off."""
    return parse_rating(answer.text) if answer.complete else None
