"""Any vectors, rows and padding: a block leaves no trace, and no row depends on its neighbours."""

from functools import cache
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.batches import collate
from concept_das.data.chat_format import Prompt, Turn
from concept_das.steering.context import Steering, steer
from concept_das.steering.vector import SteeringVector
from tests.concept_das.helpers import PAD, random_vector, tiny_chat, vector_at
from tests.concept_das.steering.generating import generating_model, state_of
from tests.tiny import LAYERS, TINY_ARCHITECTURES

CHAT = tiny_chat()
PREFIX = len(CHAT.prefix)


@cache
def model_of(architecture: str) -> PreTrainedModel:
    return generating_model(architecture)


@cache
def vector_of(
    architecture: str, layers: tuple[int, ...], operation: str, positions: str, rank: int
) -> SteeringVector:
    model = model_of(architecture)
    fields: dict[str, Any] = {"operation": operation, "positions": positions}
    if len(layers) == 1:
        return random_vector(model, layer=layers[0], rank=rank, **fields)
    return vector_at(model, layers, **fields)


# What a row is steered with: layers, operation, the vector's positions, rank, and the strength.
STEERINGS = st.none() | st.tuples(
    st.lists(st.integers(0, LAYERS - 1), min_size=1, max_size=3, unique=True).map(sorted),
    st.sampled_from(["clamp", "add"]),
    st.sampled_from(["all", "p1+s2", "s1"]),
    st.integers(1, 3),
    st.sampled_from(["elicit", "suppress"]),
    st.floats(-2, 2, width=16),
    st.sampled_from(["paper", "interpolate"]),
)
TEXTS = st.text("abc def", min_size=1, max_size=9).filter(str.strip)
CALLS = st.tuples(
    st.sampled_from(TINY_ARCHITECTURES),
    st.lists(st.tuples(TEXTS, STEERINGS), min_size=1, max_size=4),
    st.sampled_from(["all", "prompt", "generated", "p2+s1", "p1"]),
)


def built(architecture: str, row: Any) -> Steering | None:
    if row is None:
        return None
    layers, operation, positions, rank, direction, multiplier, rule = row
    vector = vector_of(architecture, tuple(layers), operation, positions, rank)
    return Steering(vector, direction, multiplier, rule if operation == "clamp" else "paper")


RESPONSE = (40, 41, 42)


@torch.no_grad()
def logits_of(
    model: PreTrainedModel,
    prompts: list[Prompt],
    rows: list[Steering | None] | None,
    positions: str = "all",
    side: Any = "right",
) -> list[Tensor]:
    """Logits of each row's own tokens, three tokens after the prompt included."""
    batch = collate([Turn(p, RESPONSE) for p in prompts], padding_side=side, pad_id=PAD)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if side == "left":
        inputs["position_ids"] = batch.position_ids
    if rows is None or not any(rows):
        logits = model(**inputs).logits
    else:
        lengths = [len(prompt.ids) for prompt in prompts]
        with steer(model, rows, positions=positions, prompt_lengths=lengths):
            logits = model(**inputs).logits
    return [row[mask.bool()] for row, mask in zip(logits, batch.attention_mask, strict=True)]


@settings(deadline=None, max_examples=20)
@given(CALLS, st.sampled_from(["left", "right"]))
def test_rows_of_a_pass(call: Any, side: str) -> None:
    architecture, asked, positions = call
    prompts = [CHAT.prompt(text) for text, _ in asked]
    rows = [built(architecture, row) for _, row in asked]
    model = model_of(architecture)
    before, plain = state_of(model), logits_of(model, prompts, None, side=side)
    steered = logits_of(model, prompts, rows, positions, side)
    assert state_of(model) == before
    for one, again in zip(plain, logits_of(model, prompts, None, side=side), strict=True):
        assert torch.equal(one, again)
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        # The template's prefix, and rows without a vector, are those of the model itself.
        untouched = PREFIX if row is not None else len(steered[i])
        close(steered[i][:untouched], plain[i][:untouched])
        (alone,) = logits_of(model, [prompt], [row], positions)
        close(steered[i], alone)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-3)


@settings(deadline=None, max_examples=8)
@given(CALLS, st.booleans())
def test_rows_of_generate(call: Any, use_cache: bool) -> None:
    architecture, asked, positions = call
    prompts = [CHAT.prompt(text) for text, _ in asked]
    rows = [built(architecture, row) for _, row in asked]
    model = model_of(architecture)
    before = state_of(model)

    def generated(chosen: list[int], **options: Any) -> list[list[int]]:
        batch = collate([Turn(prompts[i]) for i in chosen], padding_side="left", pad_id=PAD)
        with steer(model, [rows[i] for i in chosen], positions=positions):
            ids = model.generate(
                batch.input_ids,
                attention_mask=batch.attention_mask,
                pad_token_id=PAD,
                do_sample=False,
                max_new_tokens=4,
                min_new_tokens=4,
                **options,
            )
        return ids[:, batch.input_ids.shape[1] :].tolist()

    together = generated(list(range(len(prompts))))
    for i in range(len(prompts)):
        assert generated([i], use_cache=use_cache) == [together[i]]
    assert state_of(model) == before
