"""One engine, many requests: what they share in the prefix cache, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from concept_das import InputError
from concept_das.data.chat_format import ChatFormat
from concept_das.models.loading import LoadedModel
from concept_das.serving.request import SteeringRequest
from tests.vllm.conftest import PROMPTS, TIE, answers, lost

LONG = " ".join(PROMPTS * 3)


def test_other_steerings_never_share_keys_and_values(
    narrow: Any, loaded: LoadedModel, chat: ChatFormat, folders: dict[str, Path]
) -> None:
    """Each of them, and no steering, twice: the first finds nothing, the second finds its own."""
    prompt = chat.prompt(LONG)
    assert len(prompt.ids) > 200
    narrow.reset_prefix_cache()
    requests = [
        None,
        SteeringRequest("pirate"),
        SteeringRequest("pirate", "suppress"),
        SteeringRequest("pirate", multiplier=1.5),
        SteeringRequest("pirate", positions="generated"),
        SteeringRequest("rank2"),
    ]
    for request in requests:
        (first,), (second,) = (answers(narrow, [prompt], [request], 8) for _ in range(2))
        assert first.num_cached_tokens == 0
        assert second.num_cached_tokens >= 192
        for output in (first, second):
            completion = output.outputs[0].token_ids
            assert lost(loaded, folders, prompt, request, completion) <= TIE


@pytest.mark.parametrize("positions", ["generated", "prompt", "all"])
def test_a_generated_token_is_no_token_of_the_prompt(
    narrow: Any,
    loaded: LoadedModel,
    chat: ChatFormat,
    folders: dict[str, Path],
    positions: str,
) -> None:
    """A conversation goes on: its earlier answer is now a part of the prompt."""
    narrow.reset_prefix_cache()
    request = SteeringRequest("rank2", positions=positions)
    prompt = chat.prompt(PROMPTS[5])
    (first,) = answers(narrow, [prompt], [request], 48)
    longer = replace(prompt, ids=(*prompt.ids, *first.outputs[0].token_ids, *prompt.ids))
    (second,) = answers(narrow, [longer], [request], 8)
    assert (second.num_cached_tokens > 0) == (positions == "all")
    completion = second.outputs[0].token_ids
    assert lost(loaded, folders, longer, request, completion) <= TIE


def test_the_same_steering_is_shared_whatever_it_is_called(narrow: Any, chat: ChatFormat) -> None:
    prompt = chat.prompt(LONG + " Please.")
    narrow.reset_prefix_cache()
    answers(narrow, [prompt], [SteeringRequest("pirate")], 2)
    (again,) = answers(narrow, [prompt], [SteeringRequest("alias", multiplier=1.0)], 2)
    assert again.num_cached_tokens >= 192


def test_a_salt_of_the_users_own_holds_too(narrow: Any, chat: ChatFormat) -> None:
    narrow.reset_prefix_cache()
    given = {"prompt_token_ids": list(chat.prompt(LONG).ids)}
    request = SteeringRequest("pirate")
    found = [
        asked(narrow, {**given, **salt}, request).num_cached_tokens > 0
        for salt in ({}, {"cache_salt": "a"}, {"cache_salt": "a"}, {"cache_salt": "b"}, {})
    ]
    assert found == [False, False, True, False, True]


def asked(llm: Any, prompt: dict[str, Any], request: SteeringRequest) -> Any:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=2, extra_args=request.extra_args())
    return llm.generate([prompt], params, use_tqdm=False)[0]


def test_a_wrong_request_is_refused_and_the_engine_lives_on(narrow: Any, chat: ChatFormat) -> None:
    prompt = chat.prompt(PROMPTS[0])
    for request, reason in (
        (SteeringRequest("nobody"), "no vector 'nobody' here; known: pirate, rank2, added, alias"),
        (SteeringRequest("added", rule="interpolate"), "give rule paper"),
        (SteeringRequest("rank2", factor=(1.0,)), "expected"),
    ):
        with pytest.raises(InputError, match=reason):
            answers(narrow, [prompt], [request])
    (output,) = answers(narrow, [prompt], [SteeringRequest("pirate")], 4)
    assert len(output.outputs[0].token_ids) == 4
