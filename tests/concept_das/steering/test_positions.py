"""Edits of some tokens only: which they are, and that nothing else is touched."""

from dataclasses import replace

import pytest
import torch

from concept_das.data.chat_format import Prompt
from concept_das.errors import InputError
from concept_das.models.blocks import capture
from concept_das.steering.artifact import load_vector
from concept_das.steering.context import Steering, steer
from concept_das.steering.positions import EVERYWHERE, Span, parse_positions
from interventions import coordinates
from tests.concept_das.helpers import EVERY_ARCHITECTURE, random_vector, vector_at
from tests.concept_das.steering.test_context import (
    NEW,
    PREFIX,
    PROMPTS,
    generated,
    generating_model,
    inputs_of,
)
from tests.tiny import tiny_model


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
    mask = span.mask(prompts, width)
    if span == EVERYWHERE:
        assert mask is None
        return
    for row, prompt in zip(mask, prompts, strict=True):
        own, stop = range(3, len(prompt.ids)), len(prompt.ids)
        first = len(own) if span.first is None else span.first
        expected = {i for i in own if i < 3 + first or i >= stop - span.last}
        expected |= set(range(stop, width)) if span.generated else set()
        assert set(row.nonzero().flatten().tolist()) == expected


@EVERY_ARCHITECTURE
@pytest.mark.parametrize("use_cache", [True, False])
def test_the_ends_of_the_prompt_and_nothing_while_decoding(
    architecture: str, use_cache: bool
) -> None:
    model = generating_model(architecture)
    vector = random_vector(model, positions="p2+s3")
    prompts = PROMPTS[:3]
    with steer(model, vector), capture(model, vector.site(model)) as seen:
        generated(model, prompts, use_cache=use_cache)
    target, width = vector.target("elicit"), max(len(prompt.ids) for prompt in prompts)
    for number, hidden in enumerate(seen):
        hits = (coordinates(hidden, vector.weight) - target).abs().amax(-1) < 1e-3
        for row, prompt in enumerate(prompts):
            length = len(prompt.ids)
            wanted = [*range(PREFIX, PREFIX + 2), *range(length - 3, length)]
            padding = width - length
            found = [i - padding for i in hits[row].nonzero().flatten().tolist()]
            assert found == ([] if use_cache and number else sorted(set(wanted)))
    assert len(seen) == NEW


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


def test_a_direct_call_needs_to_know_where_the_prompt_ends() -> None:
    model = tiny_model()
    vector = random_vector(model, positions="p2+s2")
    with steer(model, vector), pytest.raises(InputError, match="this vector needs prompt_lengths"):
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
