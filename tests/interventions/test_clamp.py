import pytest
import torch

from interventions import ClampIntervention, coordinates, orthonormal_rows

DIM = 10


def build(rank: int = 1) -> ClampIntervention:
    return ClampIntervention(
        weight=orthonormal_rows(torch.randn(rank, DIM)), factor=3 * torch.randn(rank)
    )


def test_by_hand() -> None:
    intervention = ClampIntervention(weight=torch.tensor([[0.6, 0.8]]), factor=torch.tensor([-0.8]))
    # The coordinate 0.6 + 1.6 = 2.2 moves by -3 along (0.6, 0.8).
    output = intervention(torch.tensor([[[1.0, 2.0]]]))
    torch.testing.assert_close(output, torch.tensor([[[-0.8, -0.4]]]))


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


def test_a_position_mask_and_a_choice_of_concepts_go_together() -> None:
    intervention = ClampIntervention(
        weight=orthonormal_rows(torch.randn(2, DIM)), factor=torch.tensor([2.0, -4.0])
    )
    base = torch.randn(3, 3, DIM)
    mask = torch.tensor([[False, True, True], [True, True, True], [False, False, True]])
    output = intervention(base, subspaces=[[1], [], [0]], position_mask=mask)
    assert torch.equal(output[1], base[1])
    assert torch.equal(output[0, :1], base[0, :1])
    assert torch.equal(output[2, :2], base[2, :2])
    found = coordinates(output, intervention.weight)
    torch.testing.assert_close(found[0, 1:, 1], torch.full((2,), -4.0))
    torch.testing.assert_close(found[2, 2:, 0], torch.full((1,), 2.0))
    kept = coordinates(base, intervention.weight)
    torch.testing.assert_close(found[0, 1:, 0], kept[0, 1:, 0])


def test_a_saved_state_without_a_factor_is_an_error() -> None:
    state = build(2).state_dict()
    del state["factor"]
    with pytest.raises(RuntimeError, match="factor"):
        ClampIntervention().load_state_dict(state)
