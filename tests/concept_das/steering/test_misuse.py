"""Calls that would be steered wrongly, or leave the model broken: right, or one clear sentence."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.models.blocks import capture
from concept_das.steering.context import Steering, steer
from concept_das.steering.generation import generate_responses
from tests.concept_das.helpers import PAD, random_vector, tiny_chat, tiny_loaded, unchecked
from tests.concept_das.steering.generating import (
    PREFIX,
    PROMPTS,
    clamped,
    generated,
    generating_model,
    inputs_of,
    state_of,
)
from tests.tiny import tiny_model


@contextlib.contextmanager
def skipping(block: nn.Module) -> Iterator[None]:
    """The block runs without its hooks, as what was compiled or replaced inside would."""
    call, block.__class__ = type(block), type("Skipping", (type(block),), {})
    type(block).__call__ = lambda self, *args, **kwargs: self.forward(*args, **kwargs)
    try:
        yield
    finally:
        block.__class__ = call


def test_passes_that_were_not_steered_are_told() -> None:
    model = tiny_model()
    vector = random_vector(model)
    with (
        pytest.raises(InputError, match="the model ran 2 times and was steered 1 times"),
        steer(model, vector),
    ):
        model(**inputs_of(PROMPTS))
        with skipping(vector.site(model).module(model)):
            model(**inputs_of(PROMPTS))
    model(**inputs_of(PROMPTS))


@pytest.mark.parametrize("first_out", [0, 1])
@pytest.mark.parametrize("positions", ["all", "generated"])
def test_blocks_may_be_left_in_any_order(first_out: int, positions: Any) -> None:
    model = tiny_model()
    before = state_of(model)
    blocks = [steer(model, random_vector(model, seed=i), positions=positions) for i in range(2)]
    for block in blocks:
        block.__enter__()
    both = generated(model, PROMPTS[:1])
    blocks.pop(first_out).__exit__(None, None, None)
    assert generated(model, PROMPTS[:1]) != both
    blocks.pop().__exit__(None, None, None)
    assert state_of(model) == before
    assert "generate" not in vars(model)


def test_a_second_thread_may_not_steer_but_may_generate() -> None:
    model = generating_model("llama")
    found: dict[str, Any] = {}

    def second() -> None:
        try:
            with steer(model, random_vector(model, seed=3)):
                found["steered"] = True
        except InputError as error:
            found["refused"] = str(error)
        found["text"] = generated(model, PROMPTS[:1])

    with steer(model, random_vector(model), positions="generated"):
        expected = generated(model, PROMPTS[:1])
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert found["refused"].startswith("another thread steers this model; steer in one thread")
    assert found["text"] == expected
    second()  # the first block is over
    assert found["steered"]


def test_one_entry_for_each_prompt() -> None:
    model = tiny_model()
    rows = [Steering(random_vector(model, seed=i)) for i in range(2)]
    with steer(model, rows):
        for wrong in (
            lambda: generated(model, PROMPTS),
            lambda: model(**inputs_of(PROMPTS)),
        ):
            with pytest.raises(InputError, match="for 2 rows but the batch has 4 .* one entry for"):
                wrong()
        assert len(generated(model, PROMPTS[:2], num_beams=2, num_return_sequences=2)) == 4


def test_strength_stands_in_one_place() -> None:
    model = tiny_model()
    vector = random_vector(model)
    for entry in (Steering(vector), [Steering(vector), None]):
        with (
            pytest.raises(InputError, match="direction, multiplier and rule are of bare vectors"),
            steer(model, entry, direction="suppress"),
        ):
            pass
    with pytest.raises(InputError, match="factor and multiplier are both given"):
        Steering(vector, factor=torch.zeros(1), multiplier=2.0)
    with steer(model, [vector, None], multiplier=0.5):
        found = generated(model, PROMPTS[:2])
    with steer(model, [Steering(vector, multiplier=0.5), None]):
        assert generated(model, PROMPTS[:2]) == found


@pytest.mark.parametrize("multiplier", [float("nan"), float("inf"), "2", None])
def test_multipliers_are_finite_numbers(multiplier: Any) -> None:
    with unchecked(), pytest.raises(InputError, match="multiplier is .*; give a finite number"):
        Steering(random_vector(tiny_model()), multiplier=multiplier)


def test_interpolation_is_of_clamps() -> None:
    model = tiny_model()
    vector = random_vector(model, operation="add")
    with (
        pytest.raises(InputError, match="is added and has no coordinates to move between"),
        steer(model, vector, rule="interpolate"),
    ):
        pass


def test_a_loaded_model_is_taken_and_names_are_not() -> None:
    loaded = tiny_loaded()
    vector = random_vector(loaded.model)
    with steer(loaded.model, vector):
        expected = generated(loaded.model, PROMPTS[:1])
    with steer(loaded, vector):
        assert generated(loaded.model, PROMPTS[:1]) == expected
    with (
        unchecked(),
        pytest.raises(InputError, match="a str was given for a model; load it first"),
        steer("smollm2-135m", vector),
    ):
        pass


def test_bare_vectors_and_plain_texts_are_answered() -> None:
    model, chat = tiny_model(), tiny_chat()
    vector = random_vector(model)
    texts = ["name a tree", "sing"]
    expected = generate_responses(
        model,
        chat,
        [chat.prompt(text) for text in texts],
        steering=[Steering(vector), None],
        max_new_tokens=4,
    )
    found = generate_responses(model, chat, texts, steering=[vector, None], max_new_tokens=4)
    assert found == expected
    alone = generate_responses(model, chat, texts, steering=vector, max_new_tokens=4)
    assert alone[0] == expected[0]


def first_clamped(model: PreTrainedModel, positions: Any, **inputs: Tensor) -> list[list[int]]:
    """The columns of each row that a direct call or `generate` clamps in its first pass."""
    vector = random_vector(model, positions=positions)
    with steer(model, vector), capture(model, vector.site(model)) as seen:
        model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=PAD)
    return [row.nonzero().flatten().tolist() for row in clamped(seen[0], vector)]


def test_generate_without_a_mask_on_padded_rows() -> None:
    """transformers makes a mask from the padding tokens; the prompt ends where it says."""
    model, inputs = generating_model("llama"), inputs_of(PROMPTS[:2])
    model.generation_config.eos_token_id = None
    masked = first_clamped(model, "s2", **inputs)
    assert first_clamped(model, "s2", input_ids=inputs["input_ids"]) == masked


def test_position_ids_of_three_dimensions() -> None:
    """Qwen2-VL counts time, height and width; the tokens are counted by the mask."""
    model, inputs = tiny_model(), inputs_of(PROMPTS[:2])
    vector = random_vector(model)
    with steer(model, vector), capture(model, vector.site(model)) as expected:
        model(**inputs)
    ids = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    decoder, seen = model.get_decoder(), []

    def as_three(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "position_ids": ids.expand(3, -1, -1)}

    def as_two(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "position_ids": ids}

    with contextlib.ExitStack() as stack:
        first = decoder.register_forward_pre_hook(as_three, with_kwargs=True)
        stack.callback(first.remove)
        stack.enter_context(steer(model, vector))
        last = decoder.register_forward_pre_hook(as_two, with_kwargs=True)
        stack.callback(last.remove)
        seen = stack.enter_context(capture(model, vector.site(model)))
        model(**inputs)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(seen[0][real], expected[0][real], atol=1e-4, rtol=1e-4)


def test_a_mask_that_the_decoder_is_not_given() -> None:
    """Gemma-3 of several modalities gives its decoder masks of another form."""
    model, inputs = tiny_model(), inputs_of(PROMPTS)
    vector = random_vector(model)
    decoder = model.get_decoder()

    def without(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": None}

    hook = decoder.register_forward_pre_hook(without, with_kwargs=True)
    try:
        with steer(model, vector), capture(model, vector.site(model)) as seen:
            model(**inputs)
    finally:
        hook.remove()
    width = inputs["input_ids"].shape[1]
    for row, prompt in zip(clamped(seen[0], vector), PROMPTS, strict=True):
        padding = width - len(prompt.ids)
        assert row.nonzero().flatten().tolist() == list(range(padding + PREFIX, width))


def test_dropout_is_off_while_answers_are_made() -> None:
    model, chat = replace(tiny_loaded("gpt2")).model, tiny_chat()
    expected = generate_responses(model, chat, ["sing"], max_new_tokens=6)
    model.train()
    try:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.9
        assert generate_responses(model, chat, ["sing"], max_new_tokens=6) == expected
        assert model.training
    finally:
        model.eval()
