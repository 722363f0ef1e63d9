"""Inputs at the edge of what the interventions take."""

from pathlib import Path

import pytest
import pyvene as pv
import torch

from concept_das.models.blocks import find_site
from interventions import (
    ClampIntervention,
    DistributedInterchangeIntervention,
    orthonormal_rows,
)
from tests.tiny import WIDTH, tiny_model

DIM = 12


def test_rows_that_depend_up_to_float32_rounding_are_an_error() -> None:
    row = torch.randn(1, DIM)
    with pytest.raises(ValueError, match="linearly dependent"):
        orthonormal_rows(torch.cat([row, 3.3 * row]))


def test_more_rows_than_the_width_are_an_error() -> None:
    with pytest.raises(ValueError, match="linearly dependent"):
        orthonormal_rows(torch.randn(4, 3))


def test_a_concept_named_twice_counts_once() -> None:
    intervention = ClampIntervention(weight=torch.eye(DIM)[:1], factor=torch.tensor([2.0]))
    base = torch.randn(1, 2, DIM)
    output = intervention(base, subspaces=[[0, 0]])
    torch.testing.assert_close(output, intervention(base))


def test_overlapping_parts_are_an_error() -> None:
    with pytest.raises(ValueError, match="partition"):
        DistributedInterchangeIntervention(
            embed_dim=DIM, low_rank_dimension=3, subspace_partition=[[0, 2], [1, 3]]
        )


def test_a_partition_that_leaves_out_a_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="partition"):
        DistributedInterchangeIntervention(
            embed_dim=DIM, low_rank_dimension=2, subspace_partition=[[0, 1]]
        )


def test_an_empty_list_leaves_a_double_precision_row_alone() -> None:
    base = torch.randn(1, 2, DIM, dtype=torch.float64)
    output = ClampIntervention(weight=torch.eye(DIM)[:1])(base, subspaces=[[]])
    assert torch.equal(output, base)


def test_several_concepts_for_one_row_are_an_error() -> None:
    intervention = ClampIntervention(
        embed_dim=DIM, low_rank_dimension=2, subspace_partition=[[0, 1], [1, 2]]
    )
    with pytest.raises(ValueError, match="not orthogonal to each other"):
        intervention(torch.randn(1, 2, DIM), subspaces=[[0, 1]])


def test_pyvene_keeps_the_partition_that_the_representation_names(tmp_path: Path) -> None:
    model = tiny_model("llama")
    intervention = ClampIntervention(
        embed_dim=WIDTH, low_rank_dimension=4, subspace_partition=[[0, 2], [2, 4]]
    )
    intervenable = pv.IntervenableModel(
        {
            "component": find_site(model, 1).component,
            "intervention": intervention,
            "low_rank_dimension": 4,
            "subspace_partition": [[0, 2], [2, 4]],
        },
        model,
    )
    intervenable.save(str(tmp_path / "saved"))
    loaded = pv.IntervenableModel.load(str(tmp_path / "saved"), model)
    (found,) = loaded.interventions.values()
    assert found.subspace_partition == intervention.subspace_partition
