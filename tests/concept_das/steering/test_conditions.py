"""Conditions: rows are steered by what their prompt is, whatever they are batched with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from concept_das.data.chat_format import Turn
from concept_das.errors import InputError, VectorMismatchError
from concept_das.serving.request import SteeringRequest
from concept_das.steering.condition_search import _threshold, find_condition
from concept_das.steering.conditions import Condition, load_condition
from concept_das.steering.context import steer
from concept_das.steering.entries import Steering, Together
from concept_das.steering.generation import generate_responses
from tests.concept_das.helpers import (
    plain_hidden,
    random_vector,
    tiny_chat,
    tiny_loaded,
    unchecked,
    vector_at,
)
from tests.concept_das.steering.generating import PREFIX, PROMPTS, generated, inputs_of
from tests.concept_das.steering.test_artifact import trained
from tests.tiny import tiny_model

CHAT = tiny_chat()
LENGTHS = [len(prompt.ids) for prompt in PROMPTS]


def dividing(model: PreTrainedModel, layer: int = 1, **fields: Any) -> Condition:
    """A condition that holds for two of the four prompts."""
    condition = Condition(random_vector(model, layer=layer, seed=7), 0.0, **fields)
    values = sorted(condition.values(model, PROMPTS))
    return Condition(condition.vector, (values[1] + values[2]) / 2, **fields)


def logits(model: PreTrainedModel, entries: Any, side: Any = "right") -> list[Tensor]:
    """Of each row's own tokens."""
    inputs = inputs_of(PROMPTS, side)
    places = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)  # GPT-2 counts padding
    with torch.no_grad(), steer(model, entries, prompt_lengths=LENGTHS):
        found = model(**inputs, position_ids=places).logits
    return [row[mask.bool()] for row, mask in zip(found, inputs["attention_mask"], strict=True)]


@pytest.mark.parametrize("over", ["mean", "max", "last"])
def test_a_value_is_taken_over_the_prompts_own_tokens(over: Any) -> None:
    model = tiny_model()
    condition = Condition(random_vector(model, layer=2), 0.0, over=over)
    for prompt, value in zip(PROMPTS, condition.values(model, PROMPTS, 3), strict=True):
        line = (plain_hidden(model, 2, Turn(prompt)) @ condition.vector.weight[0])[PREFIX:]
        expected = {"mean": line.mean(), "max": line.max(), "last": line[-1]}[over]
        assert value == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layer", [0, 1])
def test_rows_that_meet_it_are_steered_and_others_untouched(
    architecture: str, side: Any, layer: int
) -> None:
    model = tiny_model(architecture)
    vector = random_vector(model, layer=1, rank=2)
    condition = dividing(model, layer)
    holds = condition.holds(model, PROMPTS)
    assert sorted(holds) == [False, False, True, True]
    plain, steered = logits(model, [None], side), logits(model, vector, side)
    for entries in (vector.at(1.0, when=condition), [vector.at(1.0, when=condition)] * 4):
        found = logits(model, entries, side)
        for i, held in enumerate(holds):
            torch.testing.assert_close(found[i], steered[i] if held else plain[i])
            assert not torch.allclose(plain[i], steered[i], atol=1e-2)
    below = Condition(condition.vector, condition.threshold, above=False)
    assert below.holds(model, PROMPTS) == [not held for held in holds]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("positions", ["all", "generated", "p1"])
def test_the_decision_is_kept_for_generated_tokens(use_cache: bool, positions: Any) -> None:
    model = tiny_model()
    vector, condition = random_vector(model), dividing(model)
    with steer(model, vector, positions=positions):
        steered = generated(model, PROMPTS, use_cache=use_cache)
    plain = generated(model, PROMPTS, use_cache=use_cache)
    holds = condition.holds(model, PROMPTS)
    expected = [steered[i] if held else plain[i] for i, held in enumerate(holds)]
    with steer(model, vector.at(1.0, when=condition), positions=positions):
        assert generated(model, PROMPTS, use_cache=use_cache) == expected
        # Another call decides anew, also for other rows.
        back = generated(model, PROMPTS[::-1], use_cache=use_cache)
        assert back == expected[::-1]
        assert generated(model, PROMPTS[2:3], use_cache=use_cache) == expected[2:3]
    assert plain != expected != steered or positions == "p1"


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    model = tiny_model()
    a, b = random_vector(model), random_vector(model, layer=2, seed=1)
    one, two = dividing(model, 0), dividing(model, 1, over="max")
    both = Together(a.at(1.0, when=one), b.at(-1.0, when=two))
    entries: list[Any] = [both, both, a.at(1.0, when=two), None]
    for prompts in (PROMPTS, PROMPTS[::-1]):
        together = generate_responses(model, CHAT, prompts, steering=entries, max_new_tokens=5)
        alone = [
            generate_responses(model, CHAT, [p], steering=e, max_new_tokens=5)[0]
            for p, e in zip(prompts, entries, strict=True)
        ]
        by_hand = [
            generate_responses(model, CHAT, [p], steering=chosen(model, e, p), max_new_tokens=5)[0]
            for p, e in zip(prompts, entries, strict=True)
        ]
        assert together == alone == by_hand


def chosen(model: PreTrainedModel, entry: Any, prompt: Any) -> Together | None:
    """The rest of an entry when its conditions are decided beforehand."""
    parts: Sequence[Steering] = () if entry is None else entry.parts
    left = [
        Steering(part.vector, part.direction, part.multiplier)
        for part in parts
        if part.when is None or part.when.holds(model, [prompt])[0]
    ]
    return Together(*left) if left else None


def test_several_sequences_of_a_prompt_share_its_decision() -> None:
    model = tiny_model()
    vector, condition = random_vector(model), dividing(model)
    torch.manual_seed(0)
    with steer(model, vector.at(1.0, when=condition)):
        beams = generated(model, PROMPTS, num_beams=2, num_return_sequences=2)
    for i, held in enumerate(condition.holds(model, PROMPTS)):
        with steer(model, [vector if held else None]):
            alone = generated(model, PROMPTS[i : i + 1], num_beams=2, num_return_sequences=2)
        assert beams[2 * i : 2 * i + 2] == alone


@pytest.mark.parametrize("name", ["lora", "loreft"])
def test_learned_edits_under_a_condition(name: str) -> None:
    model, artifact = tiny_model(), trained(name)
    condition = dividing(model, 0)
    plain, steered = logits(model, [None]), logits(model, artifact)
    found = logits(model, artifact.at(1.0, when=condition))
    for i, held in enumerate(condition.holds(model, PROMPTS)):
        torch.testing.assert_close(found[i], steered[i] if held else plain[i])
    too_late = dividing(model, artifact.layers[0])
    with pytest.raises(InputError, match="the condition is read at block"):
        logits(model, artifact.at(1.0, when=too_late))


def test_it_must_be_known_before_anything_is_steered() -> None:
    model = tiny_model()
    a, b = vector_at(model, [0, 2]), random_vector(model, layer=2)
    condition = dividing(model, 1)
    message = r"read at block 1, and cdas steers from block 0 on; find one at layers=range\(1\)"
    late: list[Any] = [
        a.at(1.0, when=condition),
        Together(a, b.at(1.0, when=condition)),
        [None, Together(b.at(1.0, when=condition), a)],
    ]
    for entry in late:
        with pytest.raises(InputError, match=message), steer(model, entry):
            raise AssertionError("entered")
    with steer(model, [a, b.at(1.0, when=condition)]):  # on rows of their own
        pass


def test_calls_of_the_model_itself() -> None:
    model = tiny_model()
    vector = random_vector(model)
    condition = Condition(random_vector(model, layer=1, seed=7), -1e9)
    ids = torch.tensor([PROMPTS[0].ids])
    steering = vector.at(1.0, when=condition)
    with (
        pytest.raises(InputError, match="a condition needs prompt_lengths"),
        steer(model, steering),
    ):
        model(ids)
    # A response that is scored is not part of the prompt.
    beyond = torch.tensor([[*PROMPTS[0].ids, 40, 41]])
    reads: list[Tensor] = []
    keeping = Condition(condition.vector, -1e9)
    original = Condition.read
    with (
        pytest.MonkeyPatch.context() as patch,
        steer(model, vector.at(1.0, when=keeping), prompt_lengths=[len(PROMPTS[0].ids)]),
    ):
        patch.setattr(Condition, "read", lambda *a: reads.append(original(*a)) or reads[-1])
        model(beyond)
    assert reads[0].tolist() == pytest.approx(keeping.values(model, PROMPTS[:1]), abs=1e-5)
    # Token by token with a cache; and in parts, which cannot be judged.
    with steer(model, steering, prompt_lengths=[ids.shape[1]]):
        cache = DynamicCache()
        model(ids, past_key_values=cache)
        stepwise = model(torch.tensor([[40]]), past_key_values=cache).logits[0, -1]
        whole = model(torch.cat([ids, torch.tensor([[40]])], dim=1)).logits[0, -1]
        torch.testing.assert_close(stepwise, whole, atol=1e-4, rtol=1e-4)
        with pytest.raises(InputError, match="a pass had only a part of one"):
            model(ids[:, :10])
    cache = DynamicCache()
    model(ids, past_key_values=cache)
    with (
        pytest.raises(InputError, match="continues one that was not steered"),
        steer(model, steering, prompt_lengths=[ids.shape[1]]),
    ):
        model(torch.tensor([[40]]), past_key_values=cache)


def test_what_is_no_condition(tmp_path: Path) -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="one direction at one block; find_condition chooses"):
        Condition(vector_at(model, [1, 2]), 0.0)
    with pytest.raises(InputError, match="one direction at one block"):
        Condition(random_vector(model, rank=2), 0.0)
    with unchecked(), pytest.raises(InputError, match="unknown tokens 'first'; choose mean"):
        Condition(random_vector(model), 0.0, over="first")  # type: ignore[arg-type]
    other = Condition(random_vector(tiny_model(seed=1)), 0.0)
    with pytest.raises(VectorMismatchError), steer(model, random_vector(model).at(1.0, when=other)):
        raise AssertionError("entered")
    with pytest.raises(VectorMismatchError):
        other.holds(model, PROMPTS)
    own = dividing(model)
    with pytest.raises(InputError, match="choose the prompts by the condition's holds"):
        generate_responses(model, CHAT, PROMPTS, steering=trained("prompt").at(1.0, when=own))
    with pytest.raises(InputError, match="vLLM steers without conditions"):
        SteeringRequest.for_steering(random_vector(model).at(1.0, when=own), "pirate")


def test_saving(tmp_path: Path) -> None:
    model = tiny_model()
    condition = dividing(model, 2, above=False, over="last")
    condition = Condition(condition.vector, condition.threshold, False, "last", {"accuracy": 0.9})
    folder = condition.save(tmp_path / "c")
    again = load_condition(folder, model)
    assert again.holds(model, PROMPTS) == condition.holds(model, PROMPTS)
    assert (again.threshold, again.above, again.over) == (condition.threshold, False, "last")
    assert again.metrics == {"accuracy": 0.9}
    with pytest.raises(VectorMismatchError):
        load_condition(folder, tiny_model(seed=1))
    path = folder / "condition.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "over": "first"}))
    with unchecked(), pytest.raises(InputError, match="unknown tokens 'first'"):
        load_condition(folder)
    path.write_text(json.dumps({**content, "vector_sha256": "0"}))
    with pytest.raises(InputError, match="belongs to another vector; save the condition again"):
        load_condition(folder)
    path.write_text("[]")
    with pytest.raises(InputError, match="cannot be read as a condition"):
        load_condition(folder)
    path.unlink()
    with pytest.raises(InputError, match="give the folder of a condition"):
        load_condition(folder)


DIGITS = [f"{n} {n * 7} {n * 13}?" for n in range(100, 124)]
WORDS = [f"say {a}{b} to {b}{a}" for a in "abcdef" for b in "uvwx"]


@pytest.mark.parametrize("over", ["mean", "max", "last"])
def test_a_condition_is_found_for_two_kinds_of_prompts(over: Any) -> None:
    loaded = tiny_loaded()
    condition = find_condition(loaded, loaded.tokenizer, DIGITS, WORDS, over=over, layers=[0, 1])
    assert condition.vector.layer in (0, 1)
    assert condition.metrics["accuracy"] > 0.8
    assert condition.metrics["heldout_prompts"] == 14
    assert condition.metrics["fit_prompts"] == len(DIGITS) + len(WORDS) - 14
    prompts = [CHAT.prompt(text) for text in (*DIGITS, *WORDS)]
    holds = condition.holds(loaded, prompts)
    right = sum(holds[:24]) / 24 / 2 + (24 - sum(holds[24:])) / 24 / 2
    held, fit = condition.metrics["accuracy"], condition.metrics["fit_accuracy"]
    assert right == pytest.approx((14 * held + 34 * fit) / 48)
    assert condition.met(condition.vector.positive_factor).item()
    assert not condition.met(condition.vector.negative_factor).item()
    # Both ways round it is the same line.
    swapped = find_condition(loaded, CHAT, WORDS, DIGITS, over=over, layers=[0, 1])
    assert swapped.metrics["heldout_prompts"] == 14


def test_a_condition_along_a_vectors_own_directions() -> None:
    loaded = tiny_loaded()
    vector = vector_at(loaded.model, [0, 2])
    condition = find_condition(loaded, CHAT, DIGITS, WORDS, vector=vector)
    site = next(site for site in vector.sites if site.layer == condition.vector.layer)
    assert any(torch.equal(condition.vector.weight[0], row) for row in site.weight)
    assert find_condition(loaded, CHAT, DIGITS, WORDS, vector=vector, layers=[2]).vector.layer == 2
    opposite = find_condition(loaded, CHAT, WORDS, DIGITS, vector=vector)
    assert opposite.above != condition.above
    assert opposite.vector.layer == condition.vector.layer
    with pytest.raises(InputError, match="no block to choose from"):
        find_condition(loaded, CHAT, DIGITS, WORDS, vector=vector, layers=[1])
    with pytest.raises(InputError, match="no block to choose from"):
        find_condition(loaded, CHAT, DIGITS, WORDS, layers=[])
    with pytest.raises(VectorMismatchError):
        find_condition(tiny_loaded(seed=1), CHAT, DIGITS, WORDS, vector=vector)


def test_heldout_prompts_take_no_part() -> None:
    loaded = tiny_loaded()
    first = find_condition(loaded, CHAT, DIGITS, WORDS, layers=[1])
    prompts = [CHAT.prompt(text) for text in DIGITS]
    # Kinds that are mixed up at random are told apart no better than by chance.
    mixed = sorted([*DIGITS, *WORDS], key=hash_of)
    nothing = find_condition(loaded, CHAT, mixed[:24], mixed[24:], layers=[1])
    assert nothing.metrics["accuracy"] < 0.8 < first.metrics["accuracy"]
    assert nothing.metrics["fit_accuracy"] > nothing.metrics["accuracy"]
    assert len(first.values(loaded, prompts, batch_size=5)) == 24
    for few in (DIGITS[:1], DIGITS[:4]):
        with pytest.raises(InputError, match=f"of {len(few)} matching prompts"):
            find_condition(loaded, CHAT, few, WORDS)
    with pytest.raises(InputError, match="of 24 matching prompts 0 would be held out"):
        find_condition(loaded, CHAT, DIGITS, WORDS, heldout=0.0)


def hash_of(text: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(text)) % 1009


def test_the_threshold_is_in_the_middle_of_the_widest_gap() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 6.0, 7.0, 8.0])
    matches = torch.tensor([False, False, False, True, True, True])
    assert _threshold(values, matches) == 4.0
    # One outlier of either kind costs a third of its kind, and the line stays.
    assert _threshold(values, torch.tensor([False, False, True, True, True, True])) == 1.5
