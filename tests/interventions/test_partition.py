"""The choice of directions, shared by both interventions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interventions import (
    ClampIntervention,
    DistributedInterchangeIntervention,
    coordinates,
    set_coordinates,
)

DIM = 12

BOTH = pytest.mark.parametrize(
    "build", [DistributedInterchangeIntervention, ClampIntervention], ids=lambda c: c.__name__
)

Build = Callable[..., Any]

# Three concepts of one, two and three directions.
PARTITION = [[0, 1], [1, 3], [3, 6]]
ROWS_OF = {0: [0], 1: [1, 2], 2: [3, 4, 5]}
RANK = 6


def concepts(build: Build, **options: Any) -> Any:
    intervention = build(
        embed_dim=DIM, low_rank_dimension=RANK, subspace_partition=PARTITION, **options
    )
    if isinstance(intervention, ClampIntervention):
        intervention.factor.copy_(torch.arange(1.0, RANK + 1))
    return intervention


def run(intervention: Any, base: Tensor, subspaces: Any = None) -> tuple[Tensor, Tensor]:
    """The intervention's output, and the coordinates `[batch, positions, all rows]` it aims at."""
    if isinstance(intervention, ClampIntervention):
        target = intervention.factor.expand(*base.shape[:-1], -1)
        return intervention(base, subspaces=subspaces), target
    source = torch.randn(base.shape[0], 1, base.shape[2]).to(base.dtype)
    target = coordinates(source, intervention.weight).expand(*base.shape[:-1], -1)
    return intervention(base, source, subspaces=subspaces), target


def sources_for(build: Build, base: Tensor) -> list[Tensor]:
    """The intervention's arguments beside the base."""
    return [] if build is ClampIntervention else [torch.randn_like(base)[:, :1]]


@BOTH
@pytest.mark.parametrize("rank", [1, 2, 5, DIM])
def test_begins_with_orthonormal_rows_in_float32(build: Build, rank: int) -> None:
    weight = build(embed_dim=DIM, low_rank_dimension=rank).weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight @ weight.T, torch.eye(rank), atol=1e-6, rtol=0)


@BOTH
def test_begins_elsewhere_with_another_seed(build: Build) -> None:
    first, second = build(embed_dim=DIM).weight, build(embed_dim=DIM).weight
    assert not torch.allclose(first.abs(), second.abs())


@BOTH
def test_the_rank_cannot_exceed_the_width(build: Build) -> None:
    with pytest.raises(ValueError, match="low_rank_dimension 13 exceeds embed_dim 12"):
        build(embed_dim=DIM, low_rank_dimension=DIM + 1)


@BOTH
def test_more_concepts_than_the_width_are_fine(build: Build) -> None:
    many = [[i, i + 1] for i in range(3 * DIM)]
    intervention = build(embed_dim=DIM, low_rank_dimension=3 * DIM, subspace_partition=many)
    norms = intervention.weight.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(3 * DIM), atol=1e-6, rtol=0)


@BOTH
def test_the_rows_are_orthonormal_within_a_part(build: Build) -> None:
    weight = concepts(build).weight
    for rows in ROWS_OF.values():
        torch.testing.assert_close(
            weight[rows] @ weight[rows].T, torch.eye(len(rows)), atol=1e-6, rtol=0
        )
    overlaps = (weight @ weight.T)[ROWS_OF[1]][:, ROWS_OF[2]]
    assert bool((overlaps.abs() > 1e-3).all())  # and unrelated across parts


@BOTH
def test_retract_treats_each_part_by_itself(build: Build) -> None:
    intervention = concepts(build)
    before = intervention.weight.detach().clone()
    with torch.no_grad():
        intervention.weight[ROWS_OF[1]] += torch.randn(2, DIM)
    intervention.retract()
    rows = intervention.weight[ROWS_OF[1]]
    torch.testing.assert_close(rows @ rows.T, torch.eye(2), atol=1e-6, rtol=0)
    assert not torch.allclose(rows, before[ROWS_OF[1]], atol=1e-2)
    others = ROWS_OF[0] + ROWS_OF[2]
    torch.testing.assert_close(intervention.weight[others], before[others], atol=1e-6, rtol=0)


@BOTH
@pytest.mark.parametrize("rank", [1, 3])
def test_all_directions_when_nothing_is_chosen(build: Build, rank: int) -> None:
    intervention = build(embed_dim=DIM, low_rank_dimension=rank)
    base = torch.randn(2, 4, DIM)
    output, target = run(intervention, base)
    expected = set_coordinates(base, intervention.weight, target)
    torch.testing.assert_close(output, expected)
    assert not torch.allclose(output, base, atol=1e-2)


@BOTH
def test_each_batch_row_uses_the_directions_of_its_own_concept(build: Build) -> None:
    intervention = concepts(build)
    chosen = [2, 0, 1, 1]
    base = torch.randn(4, 3, DIM)
    output, target = run(intervention, base, [[concept] for concept in chosen])
    for i, concept in enumerate(chosen):
        rows = ROWS_OF[concept]
        expected = set_coordinates(base[i], intervention.weight[rows], target[i][:, rows])
        torch.testing.assert_close(output[i], expected)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_empty_list_leaves_its_batch_row_alone(build: Build, dtype: torch.dtype) -> None:
    intervention = concepts(build)
    base = (10 * torch.randn(3, 4, DIM)).to(dtype)
    output, _target = run(intervention, base, [[], [2], []])
    assert torch.equal(output[0], base[0])
    assert not torch.equal(output[1], base[1])
    assert torch.equal(output[2], base[2])
    alone, _target = run(intervention, base, [[], [], []])
    assert torch.equal(alone, base)


@BOTH
def test_without_a_partition_the_rows_are_the_parts(build: Build) -> None:
    intervention = build(embed_dim=DIM, low_rank_dimension=3)
    if isinstance(intervention, ClampIntervention):
        intervention.factor.copy_(torch.tensor([1.0, 2.0, 3.0]))
    base = torch.randn(3, 2, DIM)
    output, target = run(intervention, base, [[2], [0, 1], []])
    for i, rows in enumerate([[2], [0, 1], []]):
        expected = set_coordinates(base[i], intervention.weight[rows], target[i][:, rows])
        torch.testing.assert_close(output[i], expected)


@BOTH
def test_a_concept_may_be_named_without_a_list(build: Build) -> None:
    intervention = concepts(build)
    base = torch.randn(2, 3, DIM)
    torch.manual_seed(1)
    bare, _target = run(intervention, base, [0, 2])
    torch.manual_seed(1)
    listed, _target = run(intervention, base, [[0], [2]])
    assert torch.equal(bare, listed)


@BOTH
def test_several_concepts_need_a_choice(build: Build) -> None:
    with pytest.raises(ValueError, match="several concepts; pass subspaces"):
        run(concepts(build), torch.randn(2, 3, DIM))


@BOTH
@pytest.mark.parametrize("bad", [3, -1])
def test_a_concept_out_of_range_is_an_error(build: Build, bad: int) -> None:
    with pytest.raises(ValueError, match=rf"subspace {bad} is out of range 0\.\.2"):
        run(concepts(build), torch.randn(2, 3, DIM), [[0], [bad]])


@BOTH
@pytest.mark.parametrize("count", [1, 3])
def test_one_choice_for_each_batch_row(build: Build, count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} subspaces for a batch of 2 rows"):
        run(concepts(build), torch.randn(2, 3, DIM), [[0]] * count)


@BOTH
def test_hidden_states_of_another_width_are_an_error(build: Build) -> None:
    wide = torch.randn(2, 3, DIM + 1)
    with pytest.raises(ValueError, match="width 13, the direction 12"):
        build(embed_dim=DIM)(wide, *sources_for(build, wide))


@BOTH
def test_an_intervention_without_a_width_says_how_to_get_one(build: Build) -> None:
    base = torch.randn(2, 3, DIM)
    with pytest.raises(ValueError, match=rf"intervention={build.__name__}\(embed_dim=hidden_size"):
        build()(base, *sources_for(build, base))


@BOTH
def test_only_the_chosen_directions_get_a_gradient(build: Build) -> None:
    intervention = concepts(build)
    intervention.weight.requires_grad_(True)
    output, _target = run(intervention, torch.randn(2, 3, DIM), [[1], [1]])
    (output**2).sum().backward()
    touched = intervention.weight.grad.abs().sum(dim=1) > 0
    assert touched.nonzero().flatten().tolist() == ROWS_OF[1]


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_weight_stays_float32_on_low_precision_hidden_states(
    build: Build, dtype: torch.dtype
) -> None:
    intervention = build(embed_dim=DIM, low_rank_dimension=2)
    intervention.weight.requires_grad_(True)
    output, _target = run(intervention, torch.randn(2, 3, DIM).to(dtype))
    assert output.dtype == dtype
    (output.float() ** 2).sum().backward()
    assert intervention.weight.dtype == torch.float32
    assert intervention.weight.grad.dtype == torch.float32


@BOTH
@pytest.mark.parametrize("options", [{}, {"embed_dim": DIM}], ids=["no width", "width"])
def test_a_saved_state_brings_its_own_shape(build: Build, options: dict[str, int]) -> None:
    saved = build(embed_dim=DIM, low_rank_dimension=3)
    fresh = build(**options)
    fresh.load_state_dict(saved.state_dict())
    assert fresh.state_dict().keys() == saved.state_dict().keys()
    for name, value in saved.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    assert fresh.weight.requires_grad == saved.weight.requires_grad
    base = torch.randn(2, 3, DIM)
    assert run(fresh, base)[0].shape == base.shape


@BOTH
def test_a_saved_state_of_another_shape_is_an_error(build: Build) -> None:
    saved = build(embed_dim=DIM, low_rank_dimension=3).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        build(embed_dim=DIM + 1).load_state_dict(saved)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        build(embed_dim=DIM, low_rank_dimension=2).load_state_dict(saved)
