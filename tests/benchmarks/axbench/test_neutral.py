import logging
from pathlib import Path
from typing import Any

import pytest

from benchmarks.axbench.neutral import (
    EXPECTED_TOKENS,
    MAX_TOKENS,
    estimate_neutral,
    neutral_quadruples,
    neutral_responses,
    neutral_text,
)
from benchmarks.judges.client import Endpoint
from concept_das.data.axbench_file import AxBenchConcept
from concept_das.data.concept_prompts import TOPIC_PROMPT
from concept_das.data.reading import to_frame
from concept_das.errors import UnfinishedError
from concept_das.experiments import making
from concept_das.experiments.making import make_quadruples
from tests.benchmarks.judges.server import Reply, Served, completion, error
from tests.concept_das.helpers import tiny_chat, tiny_loaded

SOURCE = AxBenchConcept(
    concept="ships and {instruction}",
    genre="code",
    instructions=["Name a fruit", "Hi", "Sing"],
    outputs=["Apple, ahoy", "Ahoy", "Yo-ho"],
)
NEUTRAL = {"Name a fruit": "Apple", "Hi": "Hello", "Sing": "La la"}


@pytest.fixture
def endpoint(served: Served, tmp_path: Path) -> Endpoint:
    served.otherwise = answer
    return Endpoint(
        tmp_path / "answers.sqlite",
        base_url=served.url,
        concurrency=1,
        max_retries=0,
    )


def answer(request: dict[str, Any]) -> Reply:
    instruction = request["messages"][0]["content"].rpartition("Instruction: ")[2]
    return completion(f" {NEUTRAL[instruction]}\n")


def test_what_is_asked(served: Served, endpoint: Endpoint) -> None:
    assert neutral_responses(endpoint, SOURCE.concept, SOURCE.instructions) == NEUTRAL
    assert served.texts() == [neutral_text(text, SOURCE.concept) for text in SOURCE.instructions]
    for request, instruction in zip(served.requests, SOURCE.instructions, strict=True):
        assert (request["model"], request["temperature"]) == ("gpt-4o-mini", 0.3)
        assert request["max_tokens"] == MAX_TOKENS
        (message,) = request["messages"]
        assert message["role"] == "user"
        assert SOURCE.concept in message["content"]
        assert instruction in message["content"]


def test_a_rerun_costs_nothing_and_the_estimate_knows(served: Served, endpoint: Endpoint) -> None:
    other = AxBenchConcept("trees", "text", ["Hi"], ["Oak"])
    before = estimate_neutral(endpoint, [SOURCE, other])
    assert (before.requests, before.cached) == (4, 0)
    assert before.completion_tokens == 4 * EXPECTED_TOKENS
    assert before.completion_limit == 4 * MAX_TOKENS
    assert before.dollars
    assert served.requests == []
    first = neutral_quadruples(endpoint, SOURCE, 3)
    assert endpoint.usage.requests == len(served.requests) == 3
    after = estimate_neutral(endpoint, [SOURCE, other])
    assert (after.requests, after.cached) == (1, 3)
    assert neutral_quadruples(endpoint, SOURCE, 3) == first
    assert len(served.requests) == 3


def test_the_rows_are_those_of_a_model_that_says_the_same(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(*_: Any, keys: list[str], on_batch: Any, **__: Any) -> None:
        on_batch(list(range(len(keys))), [NEUTRAL[key] for key in keys])

    monkeypatch.setattr(making, "generate_responses", generate)
    by_model = make_quadruples(
        tiny_loaded(),
        tiny_chat(),
        SOURCE.concept,
        SOURCE.instructions,
        template=TOPIC_PROMPT,
        concept_id=3,
        genre=SOURCE.genre,
        concept_outputs=SOURCE.outputs,
    )
    assert neutral_quadruples(endpoint, SOURCE, 3) == by_model
    assert to_frame(by_model)["positive_output"].tolist() == SOURCE.outputs


def test_rows_without_a_usable_neutral_response_are_left_out(
    served: Served, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    served.script = [error(500), completion(" "), completion("la " * 30)]
    with pytest.raises(UnfinishedError, match="failed on 1 of 3 questions; run again"):
        neutral_quadruples(endpoint, SOURCE, 3)
    with caplog.at_level(logging.WARNING):
        (row,) = neutral_quadruples(endpoint, SOURCE, 3)
    assert "dropped 'Hi': the model gave an empty answer" in caplog.text
    assert "dropped 'Sing': the model repeats itself" in caplog.text
    # Only what failed is asked again.
    assert (row.negative_input, row.negative_output) == ("Name a fruit", "Apple")
    assert len(served.requests) == 4
