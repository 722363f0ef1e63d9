"""Edge cases that are not handled yet; each test fails until its case is, and then says so."""

from pathlib import Path
from typing import Any

import pytest
import pyvene as pv
import torch

from concept_das.sites import find_site
from interventions import (
    ClampIntervention,
    DistributedInterchangeIntervention,
    coordinates,
    orthonormal_rows,
)
from tests.tiny import WIDTH, tiny_model

DIM = 12


def open_case(reason: str) -> Any:
    return pytest.mark.xfail(reason=reason, strict=True)


@open_case("the bound on the singular values is for float64 weights, the weights are float32")
def test_rows_that_depend_up_to_float32_rounding_are_an_error() -> None:
    row = torch.randn(1, DIM)
    with pytest.raises(ValueError, match="linearly dependent"):
        orthonormal_rows(torch.cat([row, 3.3 * row]))


@open_case("a wide SVD has no zero singular value to find")
def test_more_rows_than_the_width_are_an_error() -> None:
    with pytest.raises(ValueError, match="linearly dependent"):
        orthonormal_rows(torch.randn(4, 3))


@open_case("the direction is applied twice and overshoots")
def test_a_concept_named_twice_counts_once() -> None:
    intervention = ClampIntervention(weight=torch.eye(DIM)[:1], factor=torch.tensor([2.0]))
    base = torch.randn(1, 2, DIM)
    output = intervention(base, subspaces=[[0, 0]])
    torch.testing.assert_close(output, intervention(base))


@open_case("parts that overlap are retracted one after the other")
def test_overlapping_parts_are_an_error() -> None:
    with pytest.raises(ValueError, match="partition"):
        DistributedInterchangeIntervention(
            embed_dim=DIM, low_rank_dimension=3, subspace_partition=[[0, 2], [1, 3]]
        )


@open_case("a row in no part is neither retracted nor left out")
def test_a_partition_that_leaves_out_a_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="partition"):
        DistributedInterchangeIntervention(
            embed_dim=DIM, low_rank_dimension=2, subspace_partition=[[0, 1]]
        )


@open_case("the hidden states pass through the float32 of the weight")
def test_an_empty_list_leaves_a_double_precision_row_alone() -> None:
    base = torch.randn(1, 2, DIM, dtype=torch.float64)
    output = ClampIntervention(weight=torch.eye(DIM)[:1])(base, subspaces=[[]])
    assert torch.equal(output, base)


@open_case("`generate` repeats the prompts, the mask is not repeated")
def test_a_position_mask_serves_several_sequences_per_prompt() -> None:
    intervention = ClampIntervention(weight=torch.eye(DIM)[:1], factor=torch.tensor([2.0]))
    mask = torch.tensor([[False, True, True], [False, False, True]])
    base = torch.randn(2, 3, DIM)
    repeated = intervention(base.repeat_interleave(2, 0), position_mask=mask)
    expected = intervention(base, position_mask=mask).repeat_interleave(2, 0)
    torch.testing.assert_close(repeated, expected)


@open_case("a one-token prompt looks like a new token")
def test_new_tokens_after_a_protected_one_token_prompt_are_clamped() -> None:
    intervention = ClampIntervention(weight=torch.eye(DIM)[:1], factor=torch.tensor([2.0]))
    mask = torch.tensor([[False]])
    prompt, new = torch.randn(2, 1, 1, DIM)
    assert torch.equal(intervention(prompt, position_mask=mask), prompt)
    output = intervention(new, position_mask=mask)
    torch.testing.assert_close(coordinates(output, intervention.weight).item(), 2.0)


@open_case("pyvene saves its own configuration, which has no partition")
def test_pyvene_keeps_the_partition_of_an_intervention_built_by_hand(tmp_path: Path) -> None:
    model = tiny_model("llama")
    intervention = ClampIntervention(
        embed_dim=WIDTH, low_rank_dimension=4, subspace_partition=[[0, 2], [2, 4]]
    )
    intervenable = pv.IntervenableModel(
        {"component": find_site(model, 1).component, "intervention": intervention}, model
    )
    intervenable.save(str(tmp_path / "saved"))
    loaded = pv.IntervenableModel.load(str(tmp_path / "saved"), model)
    (found,) = loaded.interventions.values()
    assert found.subspace_partition == intervention.subspace_partition
