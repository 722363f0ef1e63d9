import pytest
import torch
from torch import Tensor

from interventions import DistributedInterchangeIntervention, coordinates
from objectives import interchange_loss

DIM = 10
RANKS = pytest.mark.parametrize("rank", [1, 2, 4])


def build(rank: int = 1, dtype: torch.dtype = torch.float32) -> DistributedInterchangeIntervention:
    return DistributedInterchangeIntervention(embed_dim=DIM, low_rank_dimension=rank).to(dtype)


@RANKS
def test_the_swap_is_exact(rank: int) -> None:
    intervention = build(rank, torch.float64)
    weight = intervention.weight.detach()
    # In double precision, but retracted in single at first.
    intervention.retract()
    base, source = torch.randn(2, 3, DIM).double(), torch.randn(2, 3, DIM).double()
    output = intervention(base, source)
    torch.testing.assert_close(output @ weight.T, source @ weight.T)
    rest = torch.eye(DIM, dtype=torch.float64) - weight.T @ weight
    torch.testing.assert_close(output @ rest, base @ rest)


def test_by_hand() -> None:
    intervention = DistributedInterchangeIntervention(embed_dim=2)
    intervention.weight.data = torch.tensor([[0.6, 0.8]])
    base, source = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[5.0, 0.0]]])
    # Coordinates: 0.6 + 1.6 = 2.2 in the base, 3.0 in the source; moved by 0.8 along (0.6, 0.8).
    expected = torch.tensor([[[1.48, 2.64]]])
    torch.testing.assert_close(intervention(base, source), expected)


def test_a_full_rank_interchange_is_the_source() -> None:
    base, source = torch.randn(2, 3, DIM), torch.randn(2, 3, DIM)
    torch.testing.assert_close(build(DIM)(base, source), source, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 1, DIM), (2, DIM)], ids=["[batch, 1, dim]", "[batch, dim]"])
def test_one_source_state_drives_all_base_positions(shape: tuple[int, ...]) -> None:
    intervention = build(2)
    base, source = torch.randn(2, 5, DIM), torch.randn(2, 1, DIM)
    output = intervention(base, source.reshape(shape))
    torch.testing.assert_close(output, intervention(base, source.expand(2, 5, DIM)))
    found = coordinates(output, intervention.weight)
    expected = coordinates(source, intervention.weight).expand(2, 5, 2)
    torch.testing.assert_close(found, expected)


def test_as_many_source_positions_as_base_positions_are_swapped_one_by_one() -> None:
    intervention = build()
    base, source = torch.randn(2, 3, DIM), torch.randn(2, 3, DIM)
    output = intervention(base, source)
    for position in range(3):
        alone = intervention(base[:, position : position + 1], source[:, position : position + 1])
        torch.testing.assert_close(output[:, position : position + 1], alone)


def test_the_base_is_not_changed_in_place() -> None:
    base, source = torch.randn(2, 3, DIM), torch.randn(2, 1, DIM)
    before = base.clone()
    build()(base, source)
    assert torch.equal(base, before)


def test_low_precision_is_rounded_once() -> None:
    intervention = build(2)
    base, source = torch.randn(2, 3, DIM).bfloat16(), torch.randn(2, 1, DIM).bfloat16()
    expected = intervention(base.float(), source.float()).bfloat16()
    assert torch.equal(intervention(base, source), expected)


@RANKS
def test_the_gradient_of_an_interchange_loss_matches_finite_differences(rank: int) -> None:
    intervention = build(rank, torch.float64)
    base, source = torch.randn(2, 3, DIM).double(), torch.randn(2, 1, DIM).double()
    head = torch.randn(DIM, 7, dtype=torch.float64)
    teacher = torch.randn(2, 3, 7, dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, True, False]])

    def loss(weight: Tensor) -> Tensor:
        output = torch.func.functional_call(intervention, {"weight": weight}, (base, source))
        return interchange_loss(output @ head, teacher, mask)

    weight = intervention.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (weight,))


def test_the_gradient_flows_through_all_three_uses_of_the_direction() -> None:
    # d/dw of c . (h + (w.s - w.h) w) is (c.w)(s - h) + (w.s - w.h) c.
    intervention = build(1, torch.float64)
    base, source, c = torch.randn(3, DIM, dtype=torch.float64)
    (intervention(base.view(1, 1, DIM), source.view(1, 1, DIM)) @ c).sum().backward()
    w = intervention.weight.detach()[0]
    expected = (c @ w) * (source - base) + (w @ source - w @ base) * c
    assert intervention.weight.grad is not None
    torch.testing.assert_close(intervention.weight.grad[0], expected)


def test_the_gradient_reaches_base_and_source_too() -> None:
    base = torch.randn(1, 2, DIM, dtype=torch.float64, requires_grad=True)
    source = torch.randn(1, 1, DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(build(2, torch.float64), (base, source))


def test_its_name_tells_its_rank() -> None:
    assert str(build(4)) == "DistributedInterchangeIntervention(rank=4)"
