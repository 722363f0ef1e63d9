"""Several vectors at once on one row."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.methods.prompt import SteeringPrompt
from concept_das.models.blocks import capture, find_site
from concept_das.steering.context import steer
from concept_das.steering.entries import Entry, Steering, Together, overlap
from concept_das.steering.generation import generate_responses
from concept_das.steering.vector import SteeringVector
from interventions import coordinates, set_coordinates
from tests.concept_das.helpers import random_vector, tiny_chat, vector_at
from tests.concept_das.steering.generating import PREFIX, PROMPTS, generated, inputs_of
from tests.concept_das.steering.test_artifact import trained
from tests.tiny import WIDTH, tiny_model

CHAT = tiny_chat()


def basis_vector(model: PreTrainedModel, *axes: int, **fields: Any) -> SteeringVector:
    """Its directions are axes of the hidden states: those of two are orthogonal or the same."""
    return replace(random_vector(model, rank=len(axes), **fields), weight=torch.eye(WIDTH)[[*axes]])


def turned(vector: SteeringVector, cosine: float) -> SteeringVector:
    """Along an axis that has this cosine with the vector's own."""
    axis = torch.zeros(1, WIDTH)
    axis[0, -1] = (1 - cosine**2) ** 0.5
    return replace(vector, weight=cosine * vector.weight + axis)


def states(model: PreTrainedModel, entry: Any, layer: int = 1, **how: Any) -> Tensor:
    """The output of a block, edited, of the first prompts."""
    inputs = inputs_of(PROMPTS, "right")
    how = {"prompt_lengths": [len(prompt.ids) for prompt in PROMPTS], **how}
    with (
        torch.no_grad(),
        steer(model, entry, **how),
        capture(model, find_site(model, layer)) as seen,
    ):
        model(**inputs)
    mask = inputs["attention_mask"].bool()
    return seen[0][mask]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("operation", ["clamp", "add"])
def test_orthogonal_vectors_act_as_one_after_the_other(architecture: str, operation: Any) -> None:
    model = tiny_model(architecture)
    a = basis_vector(model, 0, 3)
    b = basis_vector(model, 5, seed=1, operation=operation)
    first, second = a.at(0.5), b.at(1.5, "suppress")
    both = states(model, Together(first, second))
    with steer(model, first):
        torch.testing.assert_close(both, states(model, second))
    torch.testing.assert_close(both, states(model, Together(second, first)))
    torch.testing.assert_close(
        coordinates(states(model, Together(first, second))[PREFIX : PREFIX + 1], a.weight)[0],
        first.target(),
    )


def test_the_changes_of_overlapping_vectors_are_added() -> None:
    model = tiny_model()
    a = random_vector(model, rank=2)
    b = random_vector(model, rank=3, seed=1, operation="add")
    c = random_vector(model, seed=2)
    plain = states(model, [None])
    changes = [set_coordinates(plain, v.weight, v.target("elicit")) - plain for v in (a, c)] + [
        b.target("elicit") @ b.weight
    ]
    expected = plain + sum(changes)
    own = torch.cat([torch.arange(len(p.ids)) >= PREFIX for p in PROMPTS])
    steered = states(model, Together(a, b, c))
    torch.testing.assert_close(steered[own], expected[own])
    assert torch.equal(steered[~own], plain[~own])


def test_vectors_at_different_blocks_act_one_after_the_other() -> None:
    model = tiny_model()
    a, b = vector_at(model, [0, 2]), random_vector(model, layer=1, rank=2)
    both = states(model, Together(a, b), layer=3)
    with steer(model, a):
        torch.testing.assert_close(both, states(model, b, layer=3))


def test_rows_of_a_batch_do_not_depend_on_each_other() -> None:
    model = tiny_model()
    a, b = random_vector(model), random_vector(model, seed=1, rank=2, positions="p1+s2")
    entries: list[Entry | None] = [None, a, Together(a, b.at(2.0)), b.at(-1.0)]
    together = generate_responses(model, CHAT, PROMPTS, steering=entries, max_new_tokens=6)
    alone = [
        generate_responses(model, CHAT, [p], steering=e, max_new_tokens=6)[0]
        for p, e in zip(PROMPTS, entries, strict=True)
    ]
    assert together == alone
    assert len({*alone}) == len(alone)
    # A row with a single vector is steered to the last bit as without the others.
    plain, mixed = states(model, a), states(model, entries)
    lengths = [len(p.ids) for p in PROMPTS]
    assert torch.equal(mixed.split(lengths)[1], plain.split(lengths)[1])


@pytest.mark.parametrize("use_cache", [True, False])
def test_generated_tokens_are_steered_by_all(use_cache: bool) -> None:
    model = tiny_model()
    a, b = basis_vector(model, 1), basis_vector(model, 2, seed=1)
    with steer(model, a), steer(model, b):
        expected = generated(model, PROMPTS, use_cache=use_cache)
    with steer(model, Together(a, b)):
        assert generated(model, PROMPTS, use_cache=use_cache) == expected
    with steer(model, a):
        assert generated(model, PROMPTS, use_cache=use_cache) != expected


def test_each_keeps_its_positions() -> None:
    model = tiny_model()
    a, b = basis_vector(model, 1, positions="p1"), basis_vector(model, 2, positions="s1")
    plain, both = states(model, [None]), states(model, Together(a, b))
    lengths = [len(p.ids) for p in PROMPTS]
    for row, before in zip(both.split(lengths), plain.split(lengths), strict=True):
        changed = (row != before).nonzero().tolist()
        assert changed == [[PREFIX, 1], [len(row) - 1, 2]]


@pytest.mark.parametrize("name", ["cdas_loreft", "lora"])
def test_learned_edits_and_vectors_are_added(name: str) -> None:
    model, artifact = tiny_model(), trained(name)
    vector = random_vector(model)
    plain = states(model, [None])
    both = states(model, Together(vector, artifact))
    torch.testing.assert_close(both, states(model, Together(artifact, vector)))
    if name != "lora":  # which acts inside the block
        apart = states(model, vector) + states(model, artifact) - plain
        torch.testing.assert_close(both, apart)
    twice = states(model, Together(artifact, artifact))
    torch.testing.assert_close(
        twice, states(model, artifact.at(2.0)), atol=2e-3 if name == "lora" else 1e-5, rtol=1e-3
    )
    assert not torch.allclose(twice, states(model, artifact), atol=1e-3)


def test_a_steering_prompt_beside_a_vector() -> None:
    model = tiny_model()
    vector, text = random_vector(model), trained("prompt")
    assert isinstance(text, SteeringPrompt)
    prompts = [text.prompt(prompt, "elicit") for prompt in PROMPTS]
    expected = generate_responses(model, CHAT, prompts, steering=vector, max_new_tokens=5)
    both = Together(text, vector)
    assert generate_responses(model, CHAT, PROMPTS, steering=both, max_new_tokens=5) == expected
    with (
        pytest.raises(InputError, match="a steering prompt is put into the text"),
        steer(model, both),
    ):
        raise AssertionError("entered")


def test_overlap_is_the_cosine_of_the_smallest_angle(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    a = basis_vector(model, 0)
    wide = basis_vector(model, 2, 1, seed=1)
    for cosine, warns in ((0.0, False), (0.29, False), (0.31, True), (-0.6, True), (0.98, True)):
        caplog.clear()
        b = turned(a, cosine)
        assert overlap(a, b) == pytest.approx(abs(cosine), abs=1e-6)
        assert Together(a, wide, b).overlap == pytest.approx(abs(cosine), abs=1e-6)
        messages = [m for m in caplog.messages if "overlapping directions" in m]
        assert len(messages) == warns, messages
    # Neither the length of an added direction nor where the subspace's rows point matters.
    added = replace(a, weight=7 * turned(a, 0.5).weight, operation="add")
    assert overlap(wide, replace(wide, weight=-wide.weight.flip(0))) == pytest.approx(1)
    assert overlap(a, added) == pytest.approx(0.5)
    # Nothing is disturbed where both add, at other blocks, at other tokens, by no directions.
    assert overlap(added, added) == 0
    assert overlap(a, replace(a, layer=2)) == 0
    assert overlap(replace(a, positions="generated"), replace(a, positions="prompt")) == 0
    assert overlap(a, replace(added, weight=torch.zeros(1, WIDTH))) == 0
    assert overlap(a, trained("lora")) == 0


def test_contradicting_clamps(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    a = basis_vector(model, 0, 1, concept="pirate")
    b = basis_vector(model, 1, 2, seed=1, concept="polite")
    message = r"vector 0 \(pirate\) and vector 1 \(polite\) clamp along the same direction"
    with pytest.raises(InputError, match=message):
        Together(a, b)
    with pytest.raises(InputError, match="contradict each other; leave one out"):
        Together(Together(a), a.at(1.0, "suppress"))
    with caplog.at_level(logging.WARNING):
        Together(a, replace(a, operation="add"))
    assert "cosine 1.00" in caplog.text
    Together(replace(a, positions="generated"), replace(a, positions="prompt"))


def test_what_cannot_go_together() -> None:
    model = tiny_model()
    a, b = basis_vector(model, 0), basis_vector(model, 1)
    longer = Together(a, replace(b, prefix_length=PREFIX + 3))
    message = f"of {PREFIX} and {PREFIX + 3} tokens; train them with one chat format"
    with pytest.raises(InputError, match=message), steer(model, longer):
        raise AssertionError("entered")
    with pytest.raises(InputError, match=message):
        generate_responses(model, CHAT, PROMPTS, steering=longer)
    torch.testing.assert_close(
        states(model, longer, prefix_length=PREFIX), states(model, Together(a, b))
    )
    with pytest.raises(InputError, match="holds nothing; give it the vectors"):
        Together()
    with (
        pytest.raises(InputError, match="put them into each Steering"),
        steer(model, Together(a, b), multiplier=2.0),
    ):
        raise AssertionError("entered")


def test_a_vector_with_its_strength() -> None:
    vector = random_vector(tiny_model())
    assert vector.at(1.5) == Steering(vector, "elicit", 1.5)
    assert vector.at(2.0, "suppress", "interpolate") == Steering(
        vector, "suppress", 2.0, "interpolate"
    )
    with pytest.raises(InputError, match="give a finite number"):
        vector.at(float("nan"))
    assert trained("lora").at(0.5).multiplier == 0.5
