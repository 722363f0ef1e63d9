"""vLLM in this process answers in Hugging Face's place."""

from pathlib import Path
from typing import Any

import pytest

from concept_das import Steering, generate_responses, load_vector
from concept_das.data.chat_format import ChatFormat
from concept_das.models.loading import LoadedModel
from concept_das.serving.offline import Offline
from tests.vllm.conftest import PROMPTS

NEW = 12  # before ties come


@pytest.fixture(scope="module")
def offline() -> Offline:
    return Offline("smollm2-135m", dtype="float32")


def test_greedy_answers_are_hugging_faces(
    offline: Offline, loaded: LoadedModel, chat: ChatFormat, folders: dict[str, Path]
) -> None:
    pirate, rank2, added = (load_vector(folder) for folder in folders.values())
    entries = [Steering(pirate), None, Steering(pirate, "suppress", 1.2, "interpolate"), None]
    more = [Steering(rank2), Steering(added, multiplier=1.5), None, Steering(pirate)]
    kept: dict[int, str] = {}

    def keep(indices: list[int], texts: list[str]) -> None:
        kept.update(zip(indices, texts, strict=True))

    for steering in (entries, more):  # the engine is started again for new vectors
        common: Any = {"steering": steering, "max_new_tokens": NEW}
        found = generate_responses(
            None, chat, PROMPTS[:4], **common, on_batch=keep, generator=offline
        )
        assert found == generate_responses(loaded, chat, PROMPTS[:4], **common)
        assert kept == dict(enumerate(found))


def test_a_sampled_answer_follows_from_its_rows_seed(
    offline: Offline, chat: ChatFormat, folders: dict[str, Path]
) -> None:
    common: Any = {"max_new_tokens": NEW, "temperature": 1.0, "top_k": 50, "generator": offline}
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    a, same, _, other = generate_responses(None, chat, prompts, keys=[1, 1, 2, 3], **common)
    (alone,) = generate_responses(None, chat, PROMPTS[:1], keys=[1], **common)
    assert a == same == alone != other
