"""A batch in vLLM with several vectors and none gives the tokens that Hugging Face gives."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from concept_das.data.chat_format import ChatFormat
from concept_das.models.loading import LoadedModel
from tests.vllm.conftest import NARROW, PROMPTS, REQUESTS, TIE, answers, engine, lost


@pytest.fixture(scope="module", params=["eager", "compiled"])
def llm(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Any:
    if request.param == "eager":
        return request.getfixturevalue("narrow")
    return engine(folders, enforce_eager=False, **NARROW)


def test_the_tokens_are_those_of_hugging_face(
    llm: Any, loaded: LoadedModel, chat: ChatFormat, folders: dict[str, Path]
) -> None:
    pairs = list(product([chat.prompt(text) for text in PROMPTS], REQUESTS))
    outputs = answers(llm, *zip(*pairs, strict=True))
    assert preemptions(llm) > 0
    for (prompt, request), output in zip(pairs, outputs, strict=True):
        (found,) = output.outputs
        shortfall = lost(loaded, folders, prompt, request, found.token_ids)
        assert shortfall <= TIE, (request, found.text, shortfall)
    # The steerings do something.
    assert len({output.outputs[0].text for output in outputs}) > 0.7 * len(outputs)


def preemptions(llm: Any) -> float:
    return sum(
        metric.value for metric in llm.get_metrics() if metric.name == "vllm:num_preemptions"
    )
