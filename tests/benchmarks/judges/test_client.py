from pathlib import Path
from typing import Any

import pytest

from benchmarks.judges.answer_cache import Answer
from benchmarks.judges.client import Endpoint, Pace
from concept_das.errors import InputError, UnfinishedError
from tests.benchmarks.judges.server import Reply, Served, completion, error


def endpoint_of(served: Served, folder: Path, **options: Any) -> Endpoint:
    settings = {"cache": folder / "answers.sqlite", "base_url": served.url}
    return Endpoint(**{**settings, "concurrency": 1, "timeout": 5.0, "max_retries": 0, **options})


def shout(request: dict[str, Any]) -> Reply:
    return completion(request["messages"][0]["content"].upper())


def texts_of(answers: list[Answer]) -> list[str]:
    return [answer.text for answer in answers]


def test_one_answer_per_text_in_order_and_equal_texts_asked_once(
    served: Served, tmp_path: Path
) -> None:
    served.otherwise = shout
    endpoint = endpoint_of(served, tmp_path, concurrency=4)
    asked = ["a", "b", "a", "c"]
    before = endpoint.estimate(asked, 10)
    assert (before.requests, before.cached, before.completion_tokens) == (3, 0, 30)
    assert texts_of(endpoint.answers(asked)) == ["A", "B", "A", "C"]
    assert sorted(served.texts()) == ["a", "b", "c"]
    assert endpoint.answers([]) == []
    assert texts_of(endpoint_of(served, tmp_path).answers(["c", "d"])) == ["C", "D"]
    assert len(served.requests) == 4


def test_a_text_that_fails_for_good_is_asked_by_the_next_run(
    served: Served, tmp_path: Path
) -> None:
    served.script = [completion("one"), error(500)]
    served.otherwise = shout
    endpoint = endpoint_of(served, tmp_path)
    with pytest.raises(UnfinishedError, match="failed on 1 of 3 questions; run again to ask those"):
        endpoint.answers(["a", "b", "c"])
    assert texts_of(endpoint.answers(["a", "b", "c"])) == ["one", "B", "C"]
    assert len(served.requests) == 4


def test_an_answer_that_will_not_do_is_asked_again(served: Served, tmp_path: Path) -> None:
    served.otherwise = shout
    seen = []

    def again(text: str, asked: int, answer: Answer) -> str | None:
        seen.append((text, asked, answer.text))
        return f"{text}{asked}" if text == "b" and asked < 3 else None

    endpoint = endpoint_of(served, tmp_path)
    assert texts_of(endpoint.answers(["a", "b"], again=again)) == ["A", "B2"]
    assert seen == [("a", 1, "A"), ("b", 1, "B"), ("b", 2, "B1"), ("b", 3, "B2")]
    assert served.texts() == ["a", "b", "b1", "b2"]


def test_what_fails_while_asked_again_is_unfinished(served: Served, tmp_path: Path) -> None:
    served.script = [completion("no"), error(500)]
    endpoint = endpoint_of(served, tmp_path)
    with pytest.raises(UnfinishedError, match="failed on 1 of 1 questions"):
        endpoint.answers(["a"], again=lambda text, asked, _: f"{text}{asked}")


def test_an_error_in_the_callers_check_reaches_the_caller(served: Served, tmp_path: Path) -> None:
    def again(text: str, asked: int, answer: Answer) -> str | None:
        raise InputError("will never do")

    with pytest.raises(InputError, match="will never do"):
        endpoint_of(served, tmp_path).answers(["a", "b"], again=again)


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("benchmarks.judges.client.time", clock)
    return clock


def test_requests_are_spaced_evenly(clock: Clock) -> None:
    pace = Pace(120)
    starts = []
    for _ in range(4):
        pace.wait()
        starts.append(clock.now - 1000)
    assert starts == [0.0, 0.5, 1.0, 1.5]
    clock.now += 10  # a pause is not made up for
    pace.wait()
    pace.wait()
    assert clock.slept == [0.5, 0.5, 0.5, 0.5]


def test_without_a_limit_nobody_waits(clock: Clock) -> None:
    pace = Pace(None)
    for _ in range(50):
        pace.wait()
    assert clock.slept == []


def test_the_pace_counts_what_is_tried_again(served: Served, tmp_path: Path, clock: Clock) -> None:
    served.script = [error(500), completion("one")]
    endpoint = endpoint_of(served, tmp_path, requests_per_minute=30, max_retries=1)
    assert texts_of(endpoint.answers(["a"])) == ["one"]
    assert clock.slept == [2.0]
