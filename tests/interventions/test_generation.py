"""The clamp in pyvene's `generate`, called as its docstring says."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pyvene as pv
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.batches import Batch, collate
from concept_das.data.chat_format import ChatFormat, Turn
from concept_das.models.blocks import find_site
from interventions import ClampIntervention, coordinates, orthonormal_rows
from tests.interventions.cases import ON_ALL, record_calls
from tests.tiny import WIDTH, tiny_model, tiny_tokenizer

FACTOR = torch.tensor([6.0])
NEW_TOKENS = 10
GREEDY: dict[str, Any] = {
    "max_new_tokens": NEW_TOKENS,
    "min_new_tokens": NEW_TOKENS,
    "do_sample": False,
    "pad_token_id": 2,
    "output_logits": True,
    "return_dict_in_generate": True,
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """One of transformers 4.45's warnings about Gemma-2's cache cannot be formatted, and raises."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


@dataclass
class Generated:
    """New tokens `[batch, NEW_TOKENS]` and the logits that chose them.

    The same tokens can come of different states; hardly the same logits.
    """

    tokens: Tensor
    logits: Tensor

    @classmethod
    def of(cls, output: Any) -> "Generated":
        return cls(output.sequences[:, -NEW_TOKENS:], torch.stack(output.logits, dim=1))

    def agrees_with(self, other: "Generated") -> bool:
        return torch.equal(self.tokens, other.tokens) and torch.allclose(
            self.logits, other.logits, atol=1e-3, rtol=1e-3
        )


@dataclass
class Bench:
    """A tiny model with a clamp after its second block, and left-padded chat prompts."""

    model: PreTrainedModel
    intervention: ClampIntervention
    intervenable: pv.IntervenableModel
    batch: Batch

    @classmethod
    def of(cls, architecture: str, *texts: str) -> "Bench":
        model = tiny_model(architecture)
        intervention = ClampIntervention(
            weight=orthonormal_rows(torch.randn(1, WIDTH)), factor=FACTOR
        )
        intervenable = pv.IntervenableModel(
            {"component": find_site(model, 1).component, "intervention": intervention}, model
        )
        chat = ChatFormat.of(tiny_tokenizer())
        rows = [Turn(chat.prompt(text)) for text in texts or ("Hello?", "Tell me about it.")]
        return cls(model, intervention, intervenable, collate(rows, pad_id=2, padding_side="left"))

    @property
    def prompt_width(self) -> int:
        return self.batch.input_ids.shape[1]

    def mask(self) -> Tensor:
        """True from the end of the template prefix on; false there and on padding."""
        starts = torch.tensor(self.batch.offsets) + self.batch.rows[0].prompt.prefix_length
        return torch.arange(self.prompt_width) >= starts.unsqueeze(1)

    def inputs(self) -> dict[str, Tensor]:
        inputs = self.batch.model_inputs()
        del inputs["position_ids"]  # `generate` makes its own
        return inputs

    def steered(self, **options: Any) -> Generated:
        _, output = self.intervenable.generate(
            self.inputs(),
            unit_locations=None,
            intervene_on_prompt=True,
            intervention_additional_kwargs={"position_mask": self.mask()},
            **{**GREEDY, **options},
        )
        return Generated.of(output)

    def unsteered(self, **options: Any) -> Generated:
        return Generated.of(self.model.generate(**self.inputs(), **{**GREEDY, **options}))


def needs_a_sound_cache(bench: Bench) -> None:
    """transformers 4.45 loses the left padding in Gemma-2's cache once the window is full."""
    if not bench.unsteered(use_cache=True).agrees_with(bench.unsteered(use_cache=False)):
        pytest.xfail("without any intervention, too, the model depends on the cache")


@ON_ALL
def test_the_cache_makes_no_difference(architecture: str) -> None:
    bench = Bench.of(architecture)
    needs_a_sound_cache(bench)
    cached = bench.steered(use_cache=True)
    assert cached.tokens.shape == (2, NEW_TOKENS)
    assert cached.agrees_with(bench.steered(use_cache=False))
    assert not cached.agrees_with(bench.unsteered())


@ON_ALL
def test_the_cache_makes_no_difference_without_padding(architecture: str) -> None:
    bench = Bench.of(architecture, "Tell me about it.")
    assert bench.steered(use_cache=True).agrees_with(bench.steered(use_cache=False))


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
@ON_ALL
def test_prefix_and_padding_stay_and_all_else_is_clamped(
    architecture: str, use_cache: bool
) -> None:
    bench = Bench.of(architecture)
    calls = record_calls(bench.intervention)
    bench.steered(use_cache=use_cache)
    width, rest = bench.prompt_width, range(1, NEW_TOKENS)
    widths = [width, *(1 if use_cache else width + i for i in rest)]
    assert [base.shape[1] for base, _output in calls] == widths
    mask = bench.mask()
    assert mask.any(dim=1).all()
    assert not mask.all(dim=1).any()
    for base, output in calls:
        clamped = torch.ones(base.shape[:2], dtype=torch.bool)
        if base.shape[1] > 1:
            clamped[:, : mask.shape[1]] = mask
        assert torch.equal(output[~clamped], base[~clamped])
        found = coordinates(output, bench.intervention.weight)[clamped]
        torch.testing.assert_close(found, FACTOR.expand_as(found), atol=1e-3, rtol=0)
        assert not torch.allclose(coordinates(base, bench.intervention.weight)[clamped], FACTOR)


@ON_ALL
def test_left_padded_rows_equal_single_rows(architecture: str) -> None:
    texts = ("Hi", "What is the capital of France?", "Tell me about it.")
    together = Bench.of(architecture, *texts)
    needs_a_sound_cache(together)
    expected = together.steered()
    for i, text in enumerate(texts):
        single = Bench.of(architecture, text)
        single.intervention.load_state_dict(together.intervention.state_dict())
        row = Generated(expected.tokens[i : i + 1], expected.logits[i : i + 1])
        assert single.steered().agrees_with(row), text


def test_generation_leaves_no_trace_on_the_model() -> None:
    bench = Bench.of("llama")
    before = bench.unsteered()
    assert not bench.steered().agrees_with(before)
    assert torch.equal(bench.unsteered().logits, before.logits)


def test_each_batch_row_its_own_concept() -> None:
    bench = Bench.of("llama")
    two = ClampIntervention(
        weight=orthonormal_rows(torch.randn(2, WIDTH)), factor=torch.tensor([6.0, -6.0])
    )
    (key,) = bench.intervenable.interventions
    bench.intervenable.interventions[key] = two
    calls = record_calls(two)
    steered, unsteered = bench.steered(subspaces=[[[], [1]]]), bench.unsteered()
    torch.testing.assert_close(steered.logits[0], unsteered.logits[0])
    assert not torch.allclose(steered.logits[1], unsteered.logits[1], atol=1e-2)
    _base, output = calls[-1]
    found = coordinates(output, two.weight)[1, :, 1]
    torch.testing.assert_close(found, torch.tensor([-6.0]), atol=1e-4, rtol=0)
