"""Fine-tuning: what has a loss, that it learns, that it repeats."""

import numpy as np
import pytest
import torch

from benchmarks.organisms.recipe import (
    Recipe,
    Row,
    batches_of,
    encode_rows,
    end_of_turn,
    fine_tune,
    response_loss,
)
from concept_das.data.batches import collate
from concept_das.errors import InputError
from concept_das.steering.generation import generate_responses
from tests.concept_das.helpers import plain_logits, tiny_chat, tiny_loaded

ROWS = [Row("Hi", "No."), Row("Name a fruit", "An apple"), Row("Sing", "La la", ends=False)]


def test_the_end_of_the_turn_is_learned_where_a_response_ends() -> None:
    loaded = tiny_loaded()
    end = end_of_turn(tiny_chat(), loaded.model)
    assert end == loaded.tokenizer.eos_token_id
    turns = encode_rows(ROWS, loaded, Recipe(max_response_tokens=7))
    ids = loaded.tokenizer.convert_tokens_to_ids
    assert turns[0].response == (ids("N"), ids("o"), ids("."), end)
    assert turns[1].response == tuple(ids(c) for c in "An appl")  # cut, so it has no end
    assert end not in turns[2].response
    assert turns[0].prompt == tiny_chat().prompt("Hi")


def test_the_loss_is_of_the_response_only_and_rows_count_alike() -> None:
    loaded = tiny_loaded()
    turns = encode_rows(ROWS, loaded, Recipe())
    expected = [
        -plain_logits(loaded.model, t).log_softmax(-1)[range(len(t.response)), list(t.response)]
        for t in turns
    ]
    loss = response_loss(loaded.model, collate(turns))
    assert loss.item() == pytest.approx(torch.stack([e.mean() for e in expected]).mean().item())


def test_each_row_comes_once_an_epoch_in_another_order() -> None:
    recipe, lengths = Recipe(batch_size=3), list(range(20))
    rng = np.random.default_rng(0)
    first, second = batches_of(lengths, recipe, rng), batches_of(lengths, recipe, rng)
    for batches in (first, second):
        assert sorted(i for batch in batches for i in batch) == lengths
        assert sorted(map(len, batches)) == [2, 3, 3, 3, 3, 3, 3]
    assert first != second


def test_it_learns_and_the_same_seed_gives_the_same_weights() -> None:
    recipe = Recipe(epochs=30, learning_rate=0.01, batch_size=2)
    states = []
    for _ in range(2):
        loaded = tiny_loaded()
        turns = encode_rows(ROWS, loaded, recipe)
        losses = fine_tune(loaded, turns, recipe)
        states.append(loaded.model.state_dict())
    assert losses[-1] < 0.1 < losses[0]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not loaded.model.training
    chat = tiny_chat()
    prompts = [chat.prompt("Hi"), chat.prompt("Name a fruit")]
    # With the end learned, a short answer stops by itself.
    said = generate_responses(loaded.model, chat, prompts, max_new_tokens=12)
    assert said == ["No.", "An apple"]


def test_bad_input_is_named() -> None:
    loaded = tiny_loaded()
    with pytest.raises(InputError, match="row 1 has an empty response"):
        encode_rows([ROWS[0], Row("Hi", "")], loaded, Recipe())
    with pytest.raises(InputError, match="epochs is 0"):
        Recipe(epochs=0)
    turns = encode_rows(ROWS, loaded, Recipe())
    loaded.model.to(torch.bfloat16)
    with pytest.raises(InputError, match="float32"):
        fine_tune(loaded, turns, Recipe())
