import pytest
import torch
from torch import Tensor

from interventions import ClampIntervention, coordinates, orthonormal_rows

DIM = 10


def build(rank: int = 1) -> ClampIntervention:
    return ClampIntervention(
        weight=orthonormal_rows(torch.randn(rank, DIM)), factor=3 * torch.randn(rank)
    )


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_coordinates_become_the_factor_and_the_rest_stays(rank: int) -> None:
    intervention, base = build(rank), torch.randn(2, 3, DIM)
    output, weight = intervention(base), intervention.weight
    torch.testing.assert_close(
        coordinates(output, weight), intervention.factor.expand(2, 3, rank), atol=1e-5, rtol=1e-5
    )
    rest = torch.eye(DIM) - weight.T @ weight
    torch.testing.assert_close(output @ rest, base @ rest, atol=1e-5, rtol=1e-5)


def test_by_hand() -> None:
    intervention = ClampIntervention(weight=torch.tensor([[0.6, 0.8]]), factor=torch.tensor([-0.8]))
    # The coordinate 0.6 + 1.6 = 2.2 moves by -3 along (0.6, 0.8).
    output = intervention(torch.tensor([[[1.0, 2.0]]]))
    torch.testing.assert_close(output, torch.tensor([[[-0.8, -0.4]]]))


def test_clamping_twice_is_clamping_once() -> None:
    intervention, base = build(2), torch.randn(2, 3, DIM)
    once = intervention(base)
    torch.testing.assert_close(intervention(once), once)


def test_the_given_directions_and_factor_are_kept_as_they_are() -> None:
    weight, factor = orthonormal_rows(torch.randn(2, DIM)), torch.tensor([1.5, -2.5])
    intervention = ClampIntervention(weight=weight, factor=factor)
    assert torch.equal(intervention.weight, weight)
    assert torch.equal(intervention.factor, factor)
    weight.zero_()
    factor.zero_()
    assert bool((intervention.weight.norm(dim=1) > 0.9).all())  # copies, not views
    assert intervention.factor.tolist() == [1.5, -2.5]


def test_the_factor_is_zero_unless_given() -> None:
    assert ClampIntervention(embed_dim=DIM, low_rank_dimension=3).factor.tolist() == [0.0, 0.0, 0.0]


def test_low_precision_directions_and_factors_become_float32() -> None:
    weight = orthonormal_rows(torch.randn(1, DIM)).bfloat16()
    intervention = ClampIntervention(weight=weight, factor=torch.tensor([0.5]).bfloat16())
    assert intervention.weight.dtype == torch.float32
    assert intervention.factor.dtype == torch.float32


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 2)])
def test_a_factor_of_the_wrong_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(2,\)"):
        ClampIntervention(weight=torch.eye(DIM)[:2], factor=torch.zeros(shape))


def test_its_direction_is_not_trained() -> None:
    intervention = build()
    assert not intervention.weight.requires_grad
    assert not intervention(torch.randn(1, 2, DIM)).requires_grad


def test_a_gradient_passes_through_to_the_base() -> None:
    intervention = build(2).double()
    base = torch.randn(1, 2, DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(intervention, (base,))


def mask_of(*rows: str) -> Tensor:
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


def check_positions(output: Tensor, base: Tensor, mask: Tensor, one: ClampIntervention) -> None:
    """Clamped where the mask is true; the same bits where it is false."""
    everywhere = one(base)
    assert torch.equal(output[mask], everywhere[mask])
    assert torch.equal(output[~mask], base[~mask])
    assert not torch.equal(everywhere[~mask], base[~mask])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_position_mask_protects_the_positions_where_it_is_false(dtype: torch.dtype) -> None:
    intervention, base = build(), torch.randn(3, 4, DIM).to(dtype)
    mask = mask_of("..xx", "...x", "x.x.")
    output = intervention(base, position_mask=mask)
    assert output.dtype == dtype
    check_positions(output, base, mask, intervention)


def test_positions_after_the_mask_are_clamped() -> None:
    # Without a cache, pyvene sees the whole sequence again at each new token.
    intervention, base = build(), torch.randn(2, 6, DIM)
    output = intervention(base, position_mask=mask_of("..xx", "...x"))
    check_positions(output, base, mask_of("..xxxx", "...xxx"), intervention)


def test_a_single_new_token_is_clamped() -> None:
    # With a cache, pyvene sees only the new token.
    intervention, base = build(), torch.randn(2, 1, DIM)
    output = intervention(base, position_mask=mask_of("....", "...."))
    assert torch.equal(output, intervention(base))


def test_a_position_mask_and_a_choice_of_concepts_go_together() -> None:
    intervention = ClampIntervention(
        weight=orthonormal_rows(torch.randn(2, DIM)), factor=torch.tensor([2.0, -4.0])
    )
    base = torch.randn(3, 3, DIM)
    output = intervention(
        base, subspaces=[[1], [], [0]], position_mask=mask_of(".xx", "xxx", "..x")
    )
    assert torch.equal(output[1], base[1])
    assert torch.equal(output[0, :1], base[0, :1])
    assert torch.equal(output[2, :2], base[2, :2])
    found = coordinates(output, intervention.weight)
    torch.testing.assert_close(found[0, 1:, 1], torch.full((2,), -4.0))
    torch.testing.assert_close(found[2, 2:, 0], torch.full((1,), 2.0))
    kept = coordinates(base, intervention.weight)
    torch.testing.assert_close(found[0, 1:, 0], kept[0, 1:, 0])


def test_a_saved_state_keeps_directions_and_factor() -> None:
    saved = build(3)
    fresh = ClampIntervention()
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(fresh.factor, saved.factor)
    base = torch.randn(2, 3, DIM)
    assert torch.equal(fresh(base), saved(base))


def test_a_saved_state_without_a_factor_is_an_error() -> None:
    state = build(2).state_dict()
    del state["factor"]
    with pytest.raises(RuntimeError, match="factor"):
        ClampIntervention().load_state_dict(state)


def test_its_name_tells_its_rank() -> None:
    assert str(build(4)) == "ClampIntervention(rank=4)"
