import torch

from interventions.gated import GatedAdditionIntervention, gated_add


def test_it_begins_as_the_identity_with_an_open_gate() -> None:
    hidden = torch.randn(2, 3, 8)
    gated = GatedAdditionIntervention(8)
    assert torch.equal(gated(hidden), hidden)
    gated(hidden).sum().backward()
    assert gated.vector.grad.abs().min() > 0


def test_each_token_decides_for_itself() -> None:
    hidden = torch.tensor([[[2.0, 0.0], [-2.0, 5.0]]])
    vector, gate, bias = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor(0.5)
    moved = gated_add(hidden, vector, gate, bias, multiplier=2.0)
    assert moved.tolist() == [[[2.0, 5.0], [-2.0, 5.0]]]
    assert gated_add(hidden.bfloat16(), vector, gate, bias).dtype == torch.bfloat16


def test_masked_positions_are_left_alone() -> None:
    gated = GatedAdditionIntervention(4)
    torch.nn.init.ones_(gated.vector)
    hidden, mask = torch.randn(1, 3, 4), torch.tensor([[True, False, True]])
    moved = gated(hidden, position_mask=mask) - hidden
    torch.testing.assert_close(moved[0, ::2], torch.ones(2, 4))
    assert not moved[0, 1].any()
