"""The table of interventions and that of architectures that the contract is tested on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pyvene as pv
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.models.blocks import Site, find_site, hidden_states_at, replace_hidden
from interventions import (
    AdditiveIntervention,
    ClampIntervention,
    DistributedInterchangeIntervention,
    NullOutIntervention,
    orthonormal_rows,
)
from tests.tiny import ALL_ARCHITECTURES, TINY_ARCHITECTURES, WIDTH, tiny_model

LAYER = 1


RANK = 2


FACTOR = torch.tensor([4.0, -6.0])


@dataclass(frozen=True)
class Case:
    """An intervention, and what it should do to a hidden state, written down a second time.

    Attributes:
        expected: `(weight [rank, dim], base [dim], source [dim]) -> [dim]`.
    """

    build: Callable[[], Any]
    uses_source: bool
    expected: Callable[[Tensor, Tensor, Tensor], Tensor]


def interchange_by_hand(weight: Tensor, base: Tensor, source: Tensor) -> Tensor:
    moved = base.clone()
    for direction in weight:
        moved += (torch.dot(direction, source) - torch.dot(direction, base)) * direction
    return moved


def clamp_by_hand(weight: Tensor, base: Tensor, _source: Tensor) -> Tensor:
    moved = base.clone()
    for direction, factor in zip(weight, FACTOR, strict=True):
        moved += (factor - torch.dot(direction, base)) * direction
    return moved


def add_by_hand(weight: Tensor, base: Tensor, _source: Tensor) -> Tensor:
    moved = base.clone()
    for direction, factor in zip(weight, FACTOR, strict=True):
        moved += factor * direction
    return moved


def null_by_hand(weight: Tensor, base: Tensor, _source: Tensor) -> Tensor:
    moved = base.clone()
    for direction in weight:
        amount = torch.dot(direction, base)
        if amount > 0:
            moved -= amount / torch.dot(direction, direction) * direction
    return moved


CASES = {
    "interchange": Case(
        lambda: DistributedInterchangeIntervention(embed_dim=WIDTH, low_rank_dimension=RANK),
        uses_source=True,
        expected=interchange_by_hand,
    ),
    "clamp": Case(
        lambda: ClampIntervention(weight=orthonormal_rows(torch.randn(RANK, WIDTH)), factor=FACTOR),
        uses_source=False,
        expected=clamp_by_hand,
    ),
    "additive": Case(
        lambda: AdditiveIntervention(
            weight=orthonormal_rows(torch.randn(RANK, WIDTH)), factor=FACTOR
        ),
        uses_source=False,
        expected=add_by_hand,
    ),
    "null_out": Case(
        lambda: NullOutIntervention(embed_dim=WIDTH, low_rank_dimension=RANK),
        uses_source=False,
        expected=null_by_hand,
    ),
}


# The model classes that pyvene has a table entry for. Without one it can neither find
# `block_output` nor load what it saved.
PYVENE_KNOWS = ("llama", "gemma2", "qwen2", "gpt2")


def architectures(needs_table: bool = False) -> Any:
    """All that transformers has; those that pyvene cannot do must fail, or this table is old."""
    unknown = pytest.mark.xfail(raises=KeyError, reason="pyvene has no table entry", strict=True)
    params = []
    for name in ALL_ARCHITECTURES:
        marks = []
        if name not in TINY_ARCHITECTURES:
            reason = f"transformers {transformers.__version__} has no {name}"
            marks.append(pytest.mark.skip(reason=reason))
        elif needs_table and name not in PYVENE_KNOWS:
            marks.append(unknown)
        params.append(pytest.param(name, marks=marks))
    return pytest.mark.parametrize("architecture", params)


ON_ALL = architectures()


ON_ALL_IN_PYVENES_TABLE = architectures(needs_table=True)


EACH_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


Ids = list[list[int]]


def record_calls(intervention: Any) -> list[tuple[Tensor, Tensor]]:
    """Copies of the base and the output of every call from now on."""
    calls: list[tuple[Tensor, Tensor]] = []
    forward = intervention.forward

    def recorded(base: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output: Tensor = forward(base, *args, **kwargs)
        calls.append((base.detach().clone(), output.detach().clone()))
        return output

    intervention.forward = recorded
    return calls


@dataclass
class Bench:
    """A tiny model with an intervention at one of its blocks, and inputs for it."""

    case: Case
    model: PreTrainedModel
    site: Site
    intervention: Any
    intervenable: pv.IntervenableModel
    base: dict[str, Tensor]
    source: dict[str, Tensor]

    @classmethod
    def of(cls, case: Case, architecture: str, rows: int = 2, **where: Any) -> "Bench":
        model = tiny_model(architecture)
        site = find_site(model, LAYER)
        intervention = case.build()
        config = pv.IntervenableConfig(
            representations=[where or {"component": site.component, "intervention": intervention}],
            intervention_types=type(intervention),
        )
        intervenable = pv.IntervenableModel(config, model)
        if where:  # pyvene built its own
            (built,) = intervenable.interventions.values()
            built.load_state_dict(intervention.state_dict())
            intervention = built
        # The source is shorter than the base, so that positions cannot be mistaken.
        base = {"input_ids": torch.randint(3, 100, (rows, 9))}
        source = {"input_ids": torch.randint(3, 100, (rows, 6))}
        return cls(case, model, site, intervention, intervenable, base, source)

    def run(
        self, base_positions: Ids | None, source_positions: Ids | None, **options: Any
    ) -> Tensor:
        """Logits of the intervened model, by pyvene."""
        inputs: dict[str, Any] = {"unit_locations": {"base": [base_positions]}}
        if self.case.uses_source:
            inputs["unit_locations"] = {"sources->base": ([source_positions], [base_positions])}
            inputs["sources"] = [self.source]
        _, output = self.intervenable(self.base, **{**inputs, **options})
        logits: Tensor = output.logits
        return logits

    def expected_hidden(self, base_positions: Ids, source_positions: Ids) -> Tensor:
        """The site's hidden states as they should be, by plain loops."""
        hidden = hidden_states_at(self.model, self.site, **self.base)
        source = hidden_states_at(self.model, self.site, **self.source)
        edited, weight = hidden.clone(), self.intervention.weight.detach()
        for i, (targets, read) in enumerate(zip(base_positions, source_positions, strict=True)):
            for j, position in enumerate(targets):
                read_at = read[j] if len(read) > 1 else read[0]
                edited[i, position] = self.case.expected(
                    weight, hidden[i, position].to(weight), source[i, read_at].to(weight)
                )
        return edited

    def logits_with(self, hidden: Tensor) -> Tensor:
        """Logits of the model with the site's hidden states replaced, without pyvene."""
        block = self.site.module(self.model)
        with block.register_forward_hook(lambda *call: replace_hidden(call[-1], hidden)):
            return self.untouched()

    def untouched(self) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.model(**self.base).logits
        return logits
