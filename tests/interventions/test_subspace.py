import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interventions import coordinates, orthonormal_rows, set_coordinates

RANKS = pytest.mark.parametrize("rank", [1, 2, 5])
DIM = 12


def directions(rank: int, dim: int = DIM, dtype: torch.dtype = torch.float32) -> Tensor:
    """Orthonormal rows by QR, so that nothing here rests on `orthonormal_rows`."""
    return torch.linalg.qr(torch.randn(dim, rank, dtype=torch.float64))[0].T.to(dtype)


def complement(weight: Tensor) -> Tensor:
    """The projection that removes the rows of the weight."""
    return torch.eye(weight.shape[1], dtype=weight.dtype) - weight.T @ weight


def test_coordinates_are_dot_products_with_the_rows() -> None:
    hidden, weight = torch.randn(2, 3, DIM), directions(2)
    found = coordinates(hidden, weight)
    assert found.shape == (2, 3, 2)
    for i in range(2):
        for j in range(3):
            for r in range(2):
                expected = sum(a * b for a, b in zip(hidden[i, j], weight[r], strict=True))
                torch.testing.assert_close(found[i, j, r], expected)


@given(st.integers(1, 6), st.integers(0, 6), st.floats(-50, 50), st.integers(0, 2**31))
def test_the_coordinates_become_the_target_and_the_rest_stays(
    rank: int, spare: int, size: float, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = directions(rank, rank + spare, torch.float64)
    hidden = torch.randn(2, 3, rank + spare, dtype=torch.float64)
    target = size * torch.randn(2, 3, rank, dtype=torch.float64)
    moved = set_coordinates(hidden, weight, target)
    torch.testing.assert_close(moved @ weight.T, target, atol=1e-10, rtol=1e-10)
    rest = complement(weight)
    torch.testing.assert_close(moved @ rest, hidden @ rest, atol=1e-10, rtol=1e-10)


@RANKS
def test_exact_to_single_precision(rank: int) -> None:
    weight, hidden, target = directions(rank), 30 * torch.randn(4, 7, DIM), torch.randn(rank)
    moved = set_coordinates(hidden, weight, target)
    torch.testing.assert_close(moved @ weight.T, target.expand(4, 7, rank), atol=2e-5, rtol=0)
    rest = complement(weight)
    torch.testing.assert_close(moved @ rest, hidden @ rest, atol=2e-5, rtol=1e-6)


@RANKS
def test_setting_its_own_coordinates_changes_nothing(rank: int) -> None:
    hidden, weight = torch.randn(2, 3, DIM), directions(rank)
    assert torch.equal(set_coordinates(hidden, weight, coordinates(hidden, weight)), hidden)


def test_moving_there_and_back_restores_the_hidden_state() -> None:
    hidden, weight = torch.randn(2, 3, DIM, dtype=torch.float64), directions(2, dtype=torch.float64)
    before = coordinates(hidden, weight)
    there = set_coordinates(hidden, weight, torch.tensor([40.0, -3.0]))
    torch.testing.assert_close(set_coordinates(there, weight, before), hidden)


def test_one_target_for_all_positions_or_one_each() -> None:
    hidden, weight = torch.randn(2, 3, DIM), directions(1)
    each = torch.randn(2, 3, 1)
    by_position = set_coordinates(hidden, weight, each)
    for i in range(2):
        alone = set_coordinates(hidden[i : i + 1], weight, each[i : i + 1])
        torch.testing.assert_close(by_position[i : i + 1], alone)
    per_row = set_coordinates(hidden, weight, each[:, :1])
    torch.testing.assert_close(per_row @ weight.T, each[:, :1].expand(2, 3, 1))


def test_directions_of_its_own_for_every_batch_row() -> None:
    hidden, target = torch.randn(3, 4, DIM), torch.randn(3, 1, 2)
    weight = torch.stack([directions(2) for _ in range(3)])
    together = set_coordinates(hidden, weight, target)
    for i in range(3):
        alone = set_coordinates(hidden[i : i + 1], weight[i], target[i])
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_of_zeros_has_no_effect(dtype: torch.dtype) -> None:
    hidden = torch.randn(2, 3, DIM).to(dtype)
    zeros = torch.zeros(2, DIM)
    assert torch.equal(set_coordinates(hidden, zeros, torch.zeros(2)), hidden)
    assert torch.equal(set_coordinates(hidden, zeros, torch.tensor([1e4, -1e4])), hidden)
    padded = torch.cat([directions(1), torch.zeros(1, DIM)])
    target = torch.tensor([2.0, 1e4])
    alone = set_coordinates(hidden, padded[:1], target[:1])
    torch.testing.assert_close(set_coordinates(hidden, padded, target), alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_hidden_states_are_moved_in_the_precision_of_the_weight(
    dtype: torch.dtype,
) -> None:
    hidden, weight, target = torch.randn(2, 3, DIM).to(dtype), directions(2), torch.randn(2)
    assert coordinates(hidden, weight).dtype == torch.float32
    moved = set_coordinates(hidden, weight, target)
    assert moved.dtype == dtype
    # Rounded once, at the end.
    assert torch.equal(moved, set_coordinates(hidden.float(), weight, target).to(dtype))


def test_gradients_match_finite_differences() -> None:
    hidden = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(set_coordinates, (hidden, weight, target))


@RANKS
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_orthonormal_rows_are_orthonormal(rank: int, scale: float) -> None:
    rows = orthonormal_rows(scale * torch.randn(rank, DIM))
    torch.testing.assert_close(rows @ rows.T, torch.eye(rank), atol=1e-6, rtol=0)


@RANKS
def test_orthonormal_rows_span_the_same_space(rank: int) -> None:
    weight = torch.randn(rank, DIM, dtype=torch.float64)
    rest = complement(orthonormal_rows(weight))
    torch.testing.assert_close(weight @ rest, torch.zeros_like(weight), atol=1e-12, rtol=0)


def test_orthonormal_rows_of_one_row_is_its_unit_vector() -> None:
    weight = torch.randn(1, DIM)
    torch.testing.assert_close(orthonormal_rows(weight), weight / weight.norm())


@RANKS
def test_orthonormal_rows_is_the_nearest_such_matrix(rank: int) -> None:
    weight = torch.randn(rank, DIM, dtype=torch.float64)
    nearest = orthonormal_rows(weight)
    # The polar decomposition: weight = P nearest with P symmetric and positive definite.
    stretch = weight @ nearest.T
    torch.testing.assert_close(stretch, stretch.T)
    assert bool((torch.linalg.eigvalsh(stretch) > 0).all())
    distance = (weight - nearest).norm()
    others = [directions(rank, dtype=torch.float64) for _ in range(200)]
    # Near ones too: tiny rotations of the answer.
    for _ in range(50):
        tilt = 1e-2 * torch.randn(DIM, DIM, dtype=torch.float64)
        others.append(nearest @ torch.linalg.matrix_exp(tilt - tilt.T))
    assert all((weight - other).norm() > distance for other in others)


@RANKS
def test_orthonormal_rows_leaves_orthonormal_rows_alone(rank: int) -> None:
    weight = directions(rank)
    torch.testing.assert_close(orthonormal_rows(weight), weight, atol=1e-6, rtol=0)


def test_orthonormal_rows_keeps_the_dtype() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert orthonormal_rows(torch.randn(2, DIM).to(dtype)).dtype == dtype


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_an_error(bad: float) -> None:
    weight = torch.randn(2, DIM)
    weight[1, 3] = bad
    with pytest.raises(ValueError, match="NaN or Inf"):
        orthonormal_rows(weight)


def test_dependent_rows_are_an_error() -> None:
    row = torch.randn(1, DIM)
    with pytest.raises(ValueError, match="linearly dependent"):
        orthonormal_rows(torch.cat([row, row]))
    with pytest.raises(ValueError, match="linearly dependent"):
        orthonormal_rows(torch.cat([row, torch.zeros(1, DIM)]))
    with pytest.raises(ValueError, match="linearly dependent"):
        orthonormal_rows(torch.zeros(1, DIM))


def test_nearly_dependent_rows_are_still_told_apart() -> None:
    row, other = directions(2).split(1)
    rows = orthonormal_rows(torch.cat([row, row + 1e-3 * other]))
    torch.testing.assert_close(rows @ rows.T, torch.eye(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        rows @ complement(torch.cat([row, other])), torch.zeros(2, DIM), atol=1e-4, rtol=0
    )
