import pytest
import torch

from objectives import das_loss

LENGTHS = (5, 2, 1)
MASK = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)


def test_token_reduction_is_torch_cross_entropy_over_all_response_tokens() -> None:
    logits, labels = torch.randn(3, 5, 11), torch.randint(0, 11, (3, 5))
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.masked_fill(~MASK, -100).flatten(), ignore_index=-100
    )
    torch.testing.assert_close(das_loss(logits, labels, MASK, "token"), expected)


def test_sequence_reduction_is_the_mean_of_each_response_cross_entropy() -> None:
    logits, labels = torch.randn(3, 5, 11), torch.randint(0, 11, (3, 5))
    expected = torch.stack(
        [
            torch.nn.functional.cross_entropy(logits[i, :length], labels[i, :length])
            for i, length in enumerate(LENGTHS)
        ]
    ).mean()
    torch.testing.assert_close(das_loss(logits, labels, MASK, "sequence"), expected)
    torch.testing.assert_close(das_loss(logits, labels, MASK), expected)


def test_what_the_padding_holds_does_not_matter() -> None:
    logits, labels = torch.randn(3, 5, 11), torch.randint(0, 11, (3, 5))
    expected = das_loss(logits, labels, MASK)
    for value in (float("nan"), float("inf"), 1e30):
        padded = logits.masked_fill(~MASK.unsqueeze(-1), value)
        assert torch.equal(das_loss(padded, labels.masked_fill(~MASK, 0), MASK), expected)


def test_gradient_matches_finite_differences() -> None:
    logits = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (3, 5))
    assert torch.autograd.gradcheck(lambda z: das_loss(z, labels, MASK), (logits,))


def test_low_precision_logits_are_computed_in_float32() -> None:
    logits, labels = torch.randn(3, 5, 11).bfloat16(), torch.randint(0, 11, (3, 5))
    value = das_loss(logits, labels, MASK)
    assert value.dtype == torch.float32
    assert torch.equal(value, das_loss(logits.float(), labels, MASK))


def test_an_impossible_response_token_costs_much_but_is_a_number() -> None:
    logits = torch.tensor([[[0.0, 0.0, -float("inf")]]], requires_grad=True)
    loss = das_loss(logits, torch.tensor([[2]]), torch.tensor([[True]]))
    loss.backward()
    assert 1e20 < loss.item() < float("inf")
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_an_empty_response_is_an_error() -> None:
    logits, labels = torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)
    mask = torch.tensor([[False, False, False], [True, True, True]])
    with pytest.raises(ValueError, match="row 0 of the batch has an empty response"):
        das_loss(logits, labels, mask)
