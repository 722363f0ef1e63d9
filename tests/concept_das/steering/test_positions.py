"""Edits of some tokens only: which they are, and that nothing else is touched."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from concept_das.data.batches import collate
from concept_das.data.chat_format import Prompt
from concept_das.errors import InputError
from concept_das.models.blocks import capture
from concept_das.steering.artifact import load_vector
from concept_das.steering.context import Steering, steer
from concept_das.steering.positions import EVERYWHERE, Span, parse_positions
from concept_das.steering.vector import SteeringVector
from tests.concept_das.helpers import EVERY_ARCHITECTURE, random_vector, vector_at
from tests.concept_das.steering.generating import (
    NEW,
    PREFIX,
    PROMPTS,
    clamped,
    generated,
    generating_model,
    inputs_of,
)
from tests.tiny import tiny_model

LENGTHS = [len(prompt.ids) for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("all", EVERYWHERE),
        ("prompt", Span(None, 0, generated=False)),
        ("generated", Span(0, 0, generated=True)),
        ("p2+s2", Span(2, 2, generated=False)),
        ("p12", Span(12, 0, generated=False)),
        ("s3", Span(0, 3, generated=False)),
    ],
)
def test_words_for_positions(text: str, span: Span) -> None:
    assert parse_positions(text) == span


@pytest.mark.parametrize("text", ["", "p0", "p2+", "+s2", "p2s2x", "f2+l2", "ALL", "p-1"])
def test_words_for_no_positions(text: str) -> None:
    with pytest.raises(InputError, match="unknown positions .* such as p2"):
        parse_positions(text)


@pytest.mark.parametrize("text", ["all", "prompt", "generated", "p2+s2", "p9+s1", "s4"])
def test_a_mask_names_each_token_by_itself(text: str) -> None:
    span, width = parse_positions(text), 20
    prompts = [Prompt(tuple(range(n)), 3, n - 1) for n in (4, 9, 15)]
    mask = span.mask([prompt.with_response(range(width - 15)) for prompt in prompts])
    if span == EVERYWHERE:
        assert mask is None
        return
    for row, prompt in zip(mask, prompts, strict=True):
        own, stop = range(3, len(prompt.ids)), len(prompt.ids)
        first = len(own) if span.first is None else span.first
        expected = {i for i in own if i < 3 + first or i >= stop - span.last}
        expected |= set(range(stop, width)) if span.generated else set()
        assert {3 + i for i in row.nonzero().flatten().tolist()} == expected


def where_steered(
    model: PreTrainedModel, vector: SteeringVector, use_cache: bool, positions: str = "all"
) -> list[list[int]]:
    """For each prompt, its own positions at which some pass of generation was steered."""
    with steer(model, vector, positions=positions), capture(model, vector.site(model)) as seen:
        generated(model, PROMPTS, use_cache=use_cache)
    width = inputs_of(PROMPTS)["input_ids"].shape[1]
    found: list[set[int]] = [set() for _ in PROMPTS]
    end = 0
    for hidden in seen:
        end = end + hidden.shape[1] if use_cache else hidden.shape[1]
        for row, (prompt, hits) in enumerate(zip(PROMPTS, clamped(hidden, vector), strict=True)):
            first = end - hidden.shape[1] - (width - len(prompt.ids))
            found[row] |= {first + i for i in hits.nonzero().flatten().tolist()}
    return [sorted(row) for row in found]


@EVERY_ARCHITECTURE
@pytest.mark.parametrize("use_cache", [True, False])
def test_which_positions_are_steered(architecture: str, use_cache: bool) -> None:
    model = generating_model(architecture)
    # The last new token is never the input of a pass.
    for positions, expected in {
        "all": [range(PREFIX, n + NEW - 1) for n in LENGTHS],
        "prompt": [range(PREFIX, n) for n in LENGTHS],
        "generated": [range(n, n + NEW - 1) for n in LENGTHS],
    }.items():
        found = where_steered(model, random_vector(model), use_cache, positions)
        assert found == [list(row) for row in expected]
    found = where_steered(model, random_vector(model, positions="p2+s3"), use_cache)
    assert found == [sorted({PREFIX, PREFIX + 1, *range(n - 3, n)}) for n in LENGTHS]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["prompt", "generated"])
def test_modes_of_a_direct_call(side: Any, positions: str) -> None:
    model = tiny_model()
    vector = random_vector(model)
    batch = collate([p.with_response((40, 41, 42)) for p in PROMPTS], padding_side=side)
    with (
        steer(model, vector, positions=positions, prompt_lengths=LENGTHS),
        capture(model, vector.site(model)) as seen,
    ):
        model(**batch.model_inputs())
    for hits, own, length in zip(
        clamped(seen[0], vector), batch.attention_mask.bool(), LENGTHS, strict=True
    ):
        expected = range(PREFIX, length) if positions == "prompt" else range(length, length + 3)
        assert hits[own].nonzero().flatten().tolist() == [*expected]
        assert not hits[~own].any()


def test_the_protected_prefix_can_be_chosen() -> None:
    model = tiny_model()
    vector = random_vector(model)
    for prefix in (0, 3):
        with (
            steer(model, vector, prefix_length=prefix),
            capture(model, vector.site(model)) as seen,
        ):
            model(**inputs_of(PROMPTS[:1]))
        assert clamped(seen[0], vector)[0].nonzero().flatten().tolist() == [
            *range(prefix, LENGTHS[0])
        ]


def test_rows_with_other_positions_share_a_batch() -> None:
    model = generating_model("llama")
    words = ("all", "p2+s2", "prompt", "generated")
    rows = [Steering(vector_at(model, (0, 2), positions=word)) for word in words]
    with steer(model, rows):
        together = generated(model, PROMPTS)
    for prompt, row, tokens in zip(PROMPTS, rows, together, strict=True):
        with steer(model, row):
            assert generated(model, [prompt])[0] == tokens
    assert len({tuple(tokens) for tokens in together}) == len(words)


@pytest.mark.parametrize("positions", ["prompt", "s2"])
def test_a_call_narrows_what_the_vector_edits(positions: str) -> None:
    model = generating_model("llama")
    vector = random_vector(model)
    with steer(model, replace(vector, positions=positions)):
        expected = generated(model, PROMPTS)
    for own in (vector, replace(vector, positions="all")):
        with steer(model, own, positions=positions):
            assert generated(model, PROMPTS) == expected
    with steer(model, replace(vector, positions="generated"), positions=positions):
        assert generated(model, PROMPTS) == generated(tiny_model("llama"), PROMPTS)


@pytest.mark.parametrize(
    ("own", "asked", "what"),
    [
        ("p2+s2", "all", "this vector"),
        ("all", "prompt", "positions='prompt'"),
        ("all", "generated", "positions='generated'"),
    ],
)
def test_a_direct_call_needs_to_know_where_the_prompt_ends(own: str, asked: str, what: str) -> None:
    model = tiny_model()
    vector = random_vector(model, positions=own)
    with (
        steer(model, vector, positions=asked),
        pytest.raises(InputError, match=f"{what} needs prompt_lengths"),
    ):
        model(**inputs_of(PROMPTS))


def test_positions_are_saved(tmp_path) -> None:
    model = tiny_model()
    vector = vector_at(model, (1, 2), positions="p2+s2")
    read = load_vector(vector.save(tmp_path / "vector"), model)
    assert read.positions == "p2+s2"
    assert read.describe() == vector.describe()
    assert "positions" not in replace(vector, positions="all").describe()
    with pytest.raises(InputError, match="unknown positions 'some'"):
        replace(vector, positions="some")


def test_a_vector_at_no_more_than_the_ends_leaves_long_prompts_mostly_alone() -> None:
    model = tiny_model()
    vector, inputs = random_vector(model, layer=3, positions="p1+s1"), inputs_of(PROMPTS[:1])
    length = len(PROMPTS[0].ids)
    with steer(model, vector, prompt_lengths=[length]), capture(model, vector.site(model)) as seen:
        model(**inputs)
    with capture(model, vector.site(model)) as plain:
        model(**inputs)
    changed = (seen[0] - plain[0]).abs().amax(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [PREFIX, length - 1]
    assert torch.equal(seen[0][0, ~changed], plain[0][0, ~changed])
