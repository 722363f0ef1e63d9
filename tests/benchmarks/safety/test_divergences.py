"""KL divergences against hand-made numbers and against plain torch."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from benchmarks.safety.measures import Pair, divergences
from concept_das.data.chat_format import Turn
from concept_das.evaluation.by_strength import ReplayedLogits, WholeModelLogits, steered_logits
from concept_das.steering.context import Steering, steer
from tests.concept_das.helpers import plain_logits, random_vector, tiny_chat
from tests.tiny import tiny_model

CHAT = tiny_chat()


class Known:
    """Logits by prompt, steered ones shifted towards the first token."""

    def __init__(self, probabilities: dict[tuple[int, ...], list[list[float]]]) -> None:
        self.probabilities = probabilities

    def of(self, turns: Sequence[Turn], steering: Steering | None = None) -> list[Tensor]:
        return [torch.tensor(self.probabilities[t.prompt.ids]).log() for t in turns]


def pair(reference: str, steered: str, response: str = "") -> Pair:
    return Pair(CHAT.prompt(reference), CHAT.prompt(steered), CHAT.text_ids(response))


def test_the_untouched_model_stands_first_and_tokens_are_averaged() -> None:
    one = pair("a", "b", "xy")
    known = Known(
        {
            one.reference.ids: [[0.75, 0.25], [0.5, 0.5]],
            one.steered.ids: [[0.5, 0.5], [0.1, 0.9]],
        }
    )
    ((found,),) = divergences(known, [one], [None])
    first = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    second = 0.5 * math.log(5) + 0.5 * math.log(0.5 / 0.9)
    assert found["first"] == pytest.approx(first, rel=1e-5)
    assert found["response"] == pytest.approx((first + second) / 2, rel=1e-5)


def test_without_a_response_the_prompts_ends_are_compared() -> None:
    model = tiny_model()
    logits = WholeModelLogits(model)
    ((with_one, without),) = divergences(
        logits, [pair("Sing", "Dance", "La la"), pair("Sing", "Dance")], [None]
    )
    assert with_one["first"] == pytest.approx(without["first"], rel=1e-4)
    assert without["first"] > 0
    assert math.isnan(without["response"])


def test_a_prompt_is_no_distance_from_itself_until_it_is_steered() -> None:
    model = tiny_model()
    steering = Steering(random_vector(model), "suppress")
    same = [pair("Sing", "Sing", "La"), pair("Name a fruit", "Name a fruit", "An apple")]
    plain, steered = divergences(WholeModelLogits(model), same, [None, steering])
    assert [one["first"] for one in plain] == pytest.approx([0, 0], abs=1e-6)
    assert [one["response"] for one in plain] == pytest.approx([0, 0], abs=1e-6)
    assert min(one["response"] for one in steered) > 0.01


@torch.no_grad()
def test_it_is_what_plain_torch_says() -> None:
    model = tiny_model()
    vector = random_vector(model)
    pairs = [pair("Sing", "Sing, pirate", "La la la"), pair("Hi", "Hi there, you", "Hello")]
    steerings = [Steering(vector, "suppress", m) for m in (0.5, 1.0)]
    logits = steered_logits(model, vector, [turn for one in pairs for turn in one.turns])
    assert isinstance(logits, ReplayedLogits)
    for steering, found in zip(steerings, divergences(logits, pairs, steerings), strict=True):
        for one, value in zip(pairs, found, strict=True):
            reference, steered = one.turns
            p = plain_logits(model, reference).double().softmax(-1)
            with steer(model, steering):
                q = plain_logits(model, steered).double().softmax(-1)
            each = (p * (p / q).log()).sum(-1)
            assert value["first"] == pytest.approx(float(each[0]), rel=1e-3)
            assert value["response"] == pytest.approx(float(each.mean()), rel=1e-3)
    sizes = [found[0]["first"] for found in divergences(logits, pairs, steerings)]
    assert all(a != b for a, b in pairwise(sizes))
