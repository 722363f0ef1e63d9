import logging
import multiprocessing
import re
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from benchmarks.judges.axbench_questions import ask, read_questions
from benchmarks.judges.client import Endpoint, EndpointError
from benchmarks.judges.prices import approximate_tokens
from benchmarks.judges.questions import EXPECTED_TOKENS, ModelJudge, question_text
from benchmarks.judges.ratings import EMPTY_RESPONSE, QUESTIONS, Item, Rating
from concept_das.errors import InputError, UnfinishedError
from tests.benchmarks.judges.made_questions import write_questions
from tests.benchmarks.judges.server import Reply, Served, completion, error

pytestmark = pytest.mark.usefixtures("quick_client")

ITEM = Item("How far is the moon?", "Arr, far it be.", "Pirate talk")
OK = completion("It is clear.\nRating: [[1]]")


def judge_of(served: Served, folder: Path, **options: Any) -> ModelJudge:
    settings = {"cache": folder / "answers.sqlite", "base_url": served.url}
    return ModelJudge(Endpoint(**{**settings, "concurrency": 1, "timeout": 5.0, **options}))


def endpoint_of(judge: ModelJudge) -> Endpoint:
    assert isinstance(judge.model, Endpoint)
    return judge.model


def items(number: int) -> list[Item]:
    return [Item(f"instruction {i}", f"response {i}", "concept") for i in range(number)]


def test_each_question_is_one_request_with_all_parameters(served: Served, tmp_path: Path) -> None:
    ratings = {"concept": 0, "instruct": 1, "fluency": 2}
    expected = {question_text(question, ITEM): value for question, value in ratings.items()}

    def rate(request: dict[str, Any]) -> Reply:
        return completion(f"Rating: [[{expected[request['messages'][0]['content']]}]]")

    served.otherwise = rate
    own = {"model": "some-model", "temperature": 0.5, "max_tokens": 77, "api_key": "given"}
    judge = judge_of(served, tmp_path, **own)
    assert judge.rate([ITEM]) == [Rating(**ratings)]
    assert served.texts() == [question_text(question, ITEM) for question in QUESTIONS]
    for request in served.requests:
        assert [message["role"] for message in request["messages"]] == ["user"]
        assert (request["model"], request["temperature"]) == ("some-model", 0.5)
        assert request["max_tokens"] == 77
    assert served.authorizations == {"Bearer given"}
    assert (judge.kind, judge.name) == ("api", "api some-model")


def test_the_default_is_the_papers_judge(tmp_path: Path) -> None:
    judge = ModelJudge(Endpoint(tmp_path / "c"))
    request = endpoint_of(judge)._request("text")
    assert (request["model"], request["temperature"]) == ("gpt-4o-mini", 0.0)
    assert endpoint_of(judge).url == "https://api.openai.com/v1"


# What the first question meets, and then: its rating, and how many requests it took in all.
FIRST_QUESTION = {
    "double brackets": ([completion("Rating: [[1]]")], 1, 1),
    "no brackets": ([completion("Rating: 1")], 1, 1),
    "rate limit": ([error(429, Retry_After="0.001"), OK], 1, 2),
    "rate limit by milliseconds": ([error(429, Retry_After_Ms="1"), OK], 1, 2),
    "server error": ([error(500), error(503), OK], 1, 3),
    "lost connection": ([Reply(body=b'{"choices"', cut=True), OK], 1, 2),
    "truncated json": ([Reply(body=OK.body[:-40]), OK], 1, 2),
    "not json": ([Reply(body=b"<html>"), OK], 1, 2),
    "no choices": ([completion("Rating: [[1]]", choices=[]), OK], 1, 2),
    "choices missing": ([Reply(body=b"{}"), OK], 1, 2),
    "no text": ([completion("", choices=[{"index": 0}]), OK], 1, 2),
    "out of range": ([completion("Rating: [[3]]"), OK], 1, 2),
    "no rating": ([completion("It is fine."), OK], 1, 2),
    "empty answer": ([completion(""), completion(None), OK], 1, 3),
    "cut off": ([completion("Rating: [[2]]", finish="length"), OK], 1, 2),
    "malformed throughout": ([completion(f"Rating: {i}") for i in (-1, 1.5, 3)], None, 3),
    "empty throughout": ([completion("")] * 3, None, 3),
    "filtered": ([error(400, code="content_filter")] * 3, None, 3),
}

# What gives no answer: nothing is kept, and the next run asks again.
FAILING = {
    "broken throughout": [Reply(body=OK.body[:-40])] * 3,
    "failing throughout": [error(500)] * 5,
}


@pytest.mark.parametrize("case", FIRST_QUESTION)
def test_misbehaviour(served: Served, tmp_path: Path, case: str) -> None:
    script, rating, requests = FIRST_QUESTION[case]
    served.script = list(script)
    for _second in (False, True):  # which asks nothing that was answered
        judge = judge_of(served, tmp_path, max_retries=4)
        assert judge.rate([ITEM]) == [Rating(rating, 2, 2)]
        assert len(served.requests) == requests + 2
    assert endpoint_of(judge).usage.requests == 0


@pytest.mark.parametrize("case", FAILING)
def test_what_failed_is_asked_by_the_next_run(served: Served, tmp_path: Path, case: str) -> None:
    served.script = list(FAILING[case])
    with pytest.raises(UnfinishedError, match="failed on 1 of 3 questions"):
        judge_of(served, tmp_path, max_retries=4).rate([ITEM])
    asked = len(served.requests)
    assert judge_of(served, tmp_path, max_retries=4).rate([ITEM]) == [Rating(2, 2, 2)]
    assert len(served.requests) == asked + 1


def test_a_response_slower_than_the_time_out_is_asked_for_again(
    served: Served, tmp_path: Path
) -> None:
    served.script = [Reply(hold=True), OK]
    assert judge_of(served, tmp_path, timeout=0.2).rate([ITEM]) == [Rating(1, 2, 2)]
    assert len(served.requests) == 4


def test_the_wait_is_what_retry_after_says(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("openai._base_client.time.sleep", waits.append)
    served.script = [error(429, Retry_After="7"), error(503, Retry_After="3"), OK]
    assert judge_of(served, tmp_path).rate([ITEM]) == [Rating(1, 2, 2)]
    assert waits == [7.0, 3.0]


def test_a_malformed_answer_is_asked_again_with_a_reminder(served: Served, tmp_path: Path) -> None:
    served.script = [completion("Hm."), completion("Rating: high"), OK]
    judge_of(served, tmp_path).rate([ITEM])
    assert served.texts()[:3] == [question_text("concept", ITEM, reminders=n) for n in range(3)]


def test_missing_ratings_are_counted_in_the_log(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served.otherwise = lambda _request: completion("No.")
    with caplog.at_level(logging.WARNING):
        rated = judge_of(served, tmp_path).rate(items(2))
    assert rated == [Rating(None, None, None)] * 2
    assert "6 of 6 ratings are missing" in caplog.text
    assert len(served.requests) == 18


def test_one_failure_among_answers_is_asked_later_but_an_outage_stops_the_run(
    served: Served, tmp_path: Path
) -> None:
    served.script = [error(500), OK, error(500), OK, error(500), OK]
    with pytest.raises(UnfinishedError, match=r"failed on 3 of 6 questions"):
        judge_of(served, tmp_path, max_retries=0).rate(items(2))
    assert len(served.requests) == 6
    served.otherwise = lambda _request: error(500)
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1.*run again"):
        judge_of(served, tmp_path, max_retries=0).rate(items(9))
    assert len(served.requests) == 6 + 3


def test_a_run_stopped_by_an_outage_goes_on_where_it_stopped(
    served: Served, tmp_path: Path
) -> None:
    served.script = [OK] * 4 + [error(500)] * 3
    with pytest.raises(EndpointError):
        judge_of(served, tmp_path, max_retries=0).rate(items(3))
    judge = judge_of(served, tmp_path)
    one, two = Rating(1, 1, 1), Rating(2, 2, 2)
    assert judge.rate(items(3)) == [one, Rating(1, 2, 2), two]
    assert endpoint_of(judge).usage.requests == 5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_reported_at_once(served: Served, tmp_path: Path, status: int) -> None:
    served.otherwise = lambda _request: error(status)
    with pytest.raises(InputError, match=rf"made up, {status}.*gpt-4o-mini"):
        judge_of(served, tmp_path).rate(items(20))
    assert len(served.requests) == 1


def test_a_wrong_address_is_reported(served: Served, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="made up, 404"):
        judge_of(served, tmp_path, base_url=served.url.replace("/v1", "/v2")).rate([ITEM])


def test_responses_without_text_are_rated_by_rule(served: Served, tmp_path: Path) -> None:
    rated = judge_of(served, tmp_path).rate([Item("a", " \n", "b"), ITEM, Item("a", "", "b")])
    assert rated == [EMPTY_RESPONSE, Rating(2, 2, 2), EMPTY_RESPONSE]
    assert len(served.requests) == 3
    assert judge_of(served, tmp_path).rate([]) == []


def test_equal_questions_are_asked_once(served: Served, tmp_path: Path) -> None:
    other = Item(ITEM.instruction, ITEM.response, "Another concept")
    judge = judge_of(served, tmp_path, concurrency=4)
    assert judge.rate([ITEM, ITEM, other]) == [Rating(2, 2, 2)] * 3
    assert len(served.requests) == 4


def test_ratings_come_in_the_order_of_the_items(served: Served, tmp_path: Path) -> None:
    def rate(request: dict[str, Any]) -> Reply:
        found = re.search(r"response (\d+)", request["messages"][0]["content"])
        assert found
        return completion(f"Rating: {int(found[1]) % 3}")

    served.otherwise = rate
    rated = judge_of(served, tmp_path, concurrency=8).rate(items(15))
    assert rated == [Rating(i % 3, i % 3, i % 3) for i in range(15)]


def test_as_many_requests_at_once_as_allowed(served: Served, tmp_path: Path) -> None:
    # Each answer waits until three are asked for.
    three = threading.Barrier(3, timeout=10)

    def together(_request: dict[str, Any]) -> Reply:
        three.wait()
        return OK

    served.otherwise = together
    assert judge_of(served, tmp_path, concurrency=3).rate(items(5)) == [Rating(1, 1, 1)] * 5
    assert served.most_at_once == 3


def test_the_estimate_counts_what_is_not_in_the_cache(served: Served, tmp_path: Path) -> None:
    judge = judge_of(served, tmp_path)
    texts = [question_text(question, ITEM) for question in QUESTIONS]
    before = endpoint_of(judge).estimate(texts, EXPECTED_TOKENS)
    assert (before.requests, before.cached) == (3, 0)
    assert before.prompt_tokens == sum(map(approximate_tokens, texts))
    assert before.dollars == pytest.approx((0.15 * before.prompt_tokens + 0.6 * 3 * 80) / 1e6)
    assert served.requests == []
    judge.rate([ITEM])
    after = endpoint_of(judge).estimate([*texts, "another"], EXPECTED_TOKENS)
    assert (after.requests, after.cached) == (1, 3)
    assert endpoint_of(judge).estimate(texts, EXPECTED_TOKENS).dollars == 0


def test_an_estimate_needs_neither_key_nor_price(tmp_path: Path) -> None:
    assert Endpoint(tmp_path / "c", model="unheard-of").estimate(["a"], 9).dollars is None
    assert Endpoint(tmp_path / "c").estimate(["a"], 9).dollars


def test_the_running_total_is_the_endpoints_count(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_counts = completion("Rating: [[1]]", usage=None)
    served.script = [without_counts]
    judge = judge_of(served, tmp_path)
    judge.rate([ITEM])
    approximate = approximate_tokens(question_text("concept", ITEM))
    assert endpoint_of(judge).usage.prompt_tokens == approximate + 200
    assert endpoint_of(judge).usage.completion_tokens == approximate_tokens("Rating: [[1]]") + 40
    assert endpoint_of(judge).usage.summary(endpoint_of(judge).price) in capsys.readouterr().err
    judge.rate(items(1))
    assert endpoint_of(judge).usage.requests == 6


def test_the_environment_gives_address_and_key(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{served.url}/")
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    judge = ModelJudge(Endpoint(tmp_path / "c", concurrency=1))
    assert judge.rate([ITEM]) == [Rating(2, 2, 2)]
    assert served.authorizations == {"Bearer from-the-environment"}


def test_a_missing_key_and_a_missing_package_are_named(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        judge_of(served, tmp_path).rate([ITEM])
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"concept-das\[judge\]"):
        judge_of(served, tmp_path).rate([ITEM])


@pytest.mark.parametrize("option", ["concurrency", "max_tokens", "requests_per_minute"])
def test_settings_that_make_no_sense_are_named(tmp_path: Path, option: str) -> None:
    with pytest.raises(InputError, match=option):
        judge_of(Served(), tmp_path, **{option: 0})


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    assert "secret" not in repr(ModelJudge(Endpoint(tmp_path / "c", api_key="secret")))


def _rate_in_a_process(url: str, folder: Path) -> list[Rating]:
    return judge_of(Served(url=url), folder, concurrency=4, timeout=60.0).rate(items(12))


def test_two_processes_share_a_cache_and_agree(served: Served, tmp_path: Path) -> None:
    # Every answer is another one, so that they agree only if the first one stays. The other
    # process's first four are held back until this one asks the same.
    numbers = count()
    other_started, both_ask = threading.Event(), threading.Event()

    def answer(_request: dict[str, Any]) -> Reply:
        other_started.set()
        if len(served.requests) > 4:
            both_ask.set()
        both_ask.wait(60)
        return completion(f"Rating: {next(numbers) % 3}")

    served.otherwise = answer
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        other = pool.submit(_rate_in_a_process, served.url, tmp_path)
        assert other_started.wait(200)
        mine = _rate_in_a_process(served.url, tmp_path)
        assert other.result() == mine
    assert None not in [value for rating in mine for value in vars(rating).values()]
    texts = served.texts()
    assert len(set(texts)) == 36
    assert len(texts) > 36  # some were asked by both
    assert judge_of(served, tmp_path).rate(items(12)) == mine
    assert len(served.requests) == len(texts)


def test_axbenchs_own_questions_are_asked_once_each(served: Served, tmp_path: Path) -> None:
    questions = read_questions(write_questions(tmp_path / "axbench"))
    served.script = [completion("I cannot say.")]
    judge = ModelJudge(endpoint_of(judge_of(served, tmp_path)), questions)
    assert judge.rate([ITEM]) == [Rating(None, 2, 2)]
    assert served.texts() == [ask(questions, question, ITEM) for question in QUESTIONS]
