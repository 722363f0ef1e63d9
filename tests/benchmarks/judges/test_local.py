import logging
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.judges import local
from benchmarks.judges.local import LocalModel
from benchmarks.judges.questions import ModelJudge, question_text
from benchmarks.judges.ratings import EMPTY_RESPONSE, QUESTIONS, Item, Rating
from concept_das.data.chat_format import Prompt
from tests.concept_das.helpers import tiny_chat, tiny_loaded

CHAT = tiny_chat()
ITEM = Item("How far is the moon?", "Arr, far it be.", "Pirate talk")
OTHER = Item("Sing", "La la la", "Pirate talk")


class Scripted:
    """Stands for the model: answers the questions by a table of their texts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> None:
        self.answers = {CHAT.prompt(text).ids: answer for text, answer in answers.items()}
        self.calls: list[int] = []
        monkeypatch.setattr(local, "generate_responses", self)

    def __call__(
        self, _model: Any, _chat: Any, prompts: Sequence[Prompt], *, max_new_tokens: int, **_: Any
    ) -> list[str]:
        assert max_new_tokens == 50
        self.calls.append(len(prompts))
        return [self.answers.get(prompt.ids, "I cannot say.") for prompt in prompts]


def judge(max_tokens: int = 50) -> ModelJudge:
    return ModelJudge(LocalModel(tiny_loaded(), max_tokens))


def test_the_model_is_asked_the_same_three_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(
        monkeypatch,
        {
            question_text(question, item): f"Well.\n**Rating:** [[{rating}]]"
            for item, ratings in ((ITEM, (0, 1, 2)), (OTHER, (2, 0, 1)))
            for question, rating in zip(QUESTIONS, ratings, strict=True)
        },
    )
    rated = judge().rate([ITEM, OTHER, ITEM])
    assert rated == [Rating(0, 1, 2), Rating(2, 0, 1), Rating(0, 1, 2)]
    assert scripted.calls == [6]
    assert (judge().kind, judge().name) == ("local", "local tiny-llama")


def test_a_malformed_answer_is_asked_again_and_then_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scripted = Scripted(
        monkeypatch,
        {
            question_text("concept", ITEM): "Rating: [[1]]",
            question_text("instruct", ITEM): "Rating: [[7]]",
            question_text("instruct", ITEM, reminders=1): "Rating: [[2]]",
        },
    )
    with caplog.at_level(logging.WARNING):
        assert judge().rate([ITEM]) == [Rating(1, 2, None)]
    assert scripted.calls == [3, 2, 1]
    assert "1 of 3 ratings are missing" in caplog.text


def test_responses_without_text_are_rated_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(monkeypatch, {})
    assert judge().rate([Item("a", "\n ", "b")]) == [EMPTY_RESPONSE]
    assert judge().rate([]) == []
    assert scripted.calls == []


def test_a_real_model_without_sense_gives_missing_ratings() -> None:
    assert judge(max_tokens=3).rate([ITEM]) == [Rating(None, None, None)]
