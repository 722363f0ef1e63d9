"""The clamp in pyvene's `generate`, called as its docstring says."""

from dataclasses import dataclass
from typing import Any

import pytest
import pyvene as pv
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.chats import Batch, ChatFormat, Turn, collate
from concept_das.sites import find_site
from interventions import ClampIntervention, coordinates, orthonormal_rows
from tests.interventions.test_contract import record_calls
from tests.tiny import TINY_ARCHITECTURES, WIDTH, tiny_model, tiny_tokenizer

ON_ALL = pytest.mark.parametrize("architecture", TINY_ARCHITECTURES)

NEW_TOKENS = 10
FACTOR = torch.tensor([6.0])


@dataclass
class Bench:
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
        return cls(model, intervention, intervenable, collate(rows, 2, padding_side="left"))

    def mask(self) -> Tensor:
        """True from the end of the template prefix on; false there and on padding."""
        starts = torch.tensor(self.batch.offsets) + self.batch.rows[0].prompt.prefix_length
        return torch.arange(self.batch.input_ids.shape[1]) >= starts.unsqueeze(1)

    def inputs(self) -> dict[str, Tensor]:
        inputs = self.batch.model_inputs()
        del inputs["position_ids"]  # `generate` makes its own
        return inputs

    def steered(self, **options: Any) -> Tensor:
        """The new tokens `[batch, NEW_TOKENS]`."""
        _, ids = self.intervenable.generate(
            self.inputs(),
            unit_locations=None,
            intervene_on_prompt=True,
            intervention_additional_kwargs={"position_mask": self.mask()},
            **{**greedy(), **options},
        )
        new: Tensor = ids[:, self.batch.input_ids.shape[1] :]
        return new

    def unsteered(self) -> Tensor:
        ids = self.model.generate(**self.inputs(), **greedy())
        assert isinstance(ids, Tensor)
        return ids[:, self.batch.input_ids.shape[1] :]


def greedy() -> dict[str, Any]:
    return {
        "max_new_tokens": NEW_TOKENS,
        "min_new_tokens": NEW_TOKENS,
        "do_sample": False,
        "pad_token_id": 2,
    }


@ON_ALL
def test_the_cache_makes_no_difference(architecture: str) -> None:
    bench = Bench.of(architecture)
    cached = bench.steered(use_cache=True)
    assert cached.shape == (2, NEW_TOKENS)
    assert torch.equal(cached, bench.steered(use_cache=False))
    assert not torch.equal(cached, bench.unsteered())


@ON_ALL
def test_with_a_cache_the_prompt_and_each_new_token_are_seen_once(architecture: str) -> None:
    bench = Bench.of(architecture)
    calls = record_calls(bench.intervention)
    bench.steered(use_cache=True)
    width = bench.batch.input_ids.shape[1]
    assert [base.shape[1] for base, _ in calls] == [width] + [1] * (NEW_TOKENS - 1)


@ON_ALL
def test_without_a_cache_the_whole_sequence_is_seen_each_time(architecture: str) -> None:
    bench = Bench.of(architecture)
    calls = record_calls(bench.intervention)
    bench.steered(use_cache=False)
    width = bench.batch.input_ids.shape[1]
    assert [base.shape[1] for base, _ in calls] == [width + i for i in range(NEW_TOKENS)]


@pytest.mark.parametrize("use_cache", [True, False])
@ON_ALL
def test_prefix_and_padding_stay_and_all_else_is_clamped(
    architecture: str, use_cache: bool
) -> None:
    bench = Bench.of(architecture)
    calls = record_calls(bench.intervention)
    bench.steered(use_cache=use_cache)
    mask = bench.mask()
    assert mask.any(dim=1).all()
    assert not mask.all(dim=1).any()
    for base, output in calls:
        if base.shape[1] == 1:
            here = torch.ones(2, 1, dtype=torch.bool)
        else:
            here = torch.ones(base.shape[:2], dtype=torch.bool)
            here[:, : mask.shape[1]] = mask
        assert torch.equal(output[~here], base[~here])
        found = coordinates(output, bench.intervention.weight)[here]
        torch.testing.assert_close(found, FACTOR.expand_as(found), atol=1e-3, rtol=0)
        assert not torch.allclose(coordinates(base, bench.intervention.weight)[here], FACTOR)


@ON_ALL
def test_left_padded_rows_equal_single_rows(architecture: str) -> None:
    texts = ("Hi", "What is the capital of France?", "Tell me about it.")
    together = Bench.of(architecture, *texts)
    expected = together.steered()
    for i, text in enumerate(texts):
        single = Bench.of(architecture, text)
        single.intervention.load_state_dict(together.intervention.state_dict())
        assert torch.equal(single.steered()[0], expected[i]), text


def test_the_mask_matters() -> None:
    bench = Bench.of("llama")
    protected = bench.steered()
    _, ids = bench.intervenable.generate(
        bench.inputs(), unit_locations=None, intervene_on_prompt=True, **greedy()
    )
    assert not torch.equal(ids[:, bench.batch.input_ids.shape[1] :], protected)


def test_generation_leaves_no_trace_on_the_model() -> None:
    bench = Bench.of("llama")
    before = bench.unsteered()
    bench.steered()
    assert torch.equal(bench.unsteered(), before)


def test_each_batch_row_its_own_concept() -> None:
    bench = Bench.of("llama")
    two = ClampIntervention(
        weight=orthonormal_rows(torch.randn(2, WIDTH)), factor=torch.tensor([6.0, -6.0])
    )
    (key,) = bench.intervenable.interventions
    bench.intervenable.interventions[key] = two
    calls = record_calls(two)
    new = bench.steered(subspaces=[[[], [1]]])
    assert torch.equal(new[0], bench.unsteered()[0])
    assert not torch.equal(new[1], bench.unsteered()[1])
    _base, output = calls[-1]
    torch.testing.assert_close(
        coordinates(output, two.weight)[1, :, 1], torch.tensor([-6.0]), atol=1e-4, rtol=0
    )
