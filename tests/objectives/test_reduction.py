import inspect
import math

import pytest
import torch

from objectives import REDUCTIONS, reduce_tokens, token_weights

VALUES = torch.tensor([[1.0, 2.0, 6.0], [5.0, 7.0, 9.0]])
MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_sequence_averages_within_each_response_first() -> None:
    # (mean(1, 2, 6) + mean(5)) / 2
    assert reduce_tokens(VALUES, MASK, "sequence").item() == pytest.approx(4.0)


def test_token_pools_all_tokens() -> None:
    # mean(1, 2, 6, 5)
    assert reduce_tokens(VALUES, MASK, "token").item() == pytest.approx(3.5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf, 1e38])
def test_padding_may_hold_anything(reduction: str, padding: float) -> None:
    values = VALUES.masked_fill(~MASK, padding).requires_grad_()
    reduced = reduce_tokens(values, MASK, reduction)
    assert torch.equal(reduced, reduce_tokens(VALUES, MASK, reduction))
    (gradient,) = torch.autograd.grad(reduced, values)
    assert torch.equal(gradient != 0, MASK)
    assert gradient.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_mask_with_holes_counts_only_its_tokens(reduction: str) -> None:
    mask = torch.tensor([[True, False, True]])
    reduced = reduce_tokens(torch.tensor([[1.0, 100.0, 4.0]]), mask, reduction)
    assert reduced.item() == pytest.approx(2.5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_empty_response_is_an_error_that_names_its_row(reduction: str) -> None:
    mask = torch.tensor([[True, True, True], [False, False, False]])
    with pytest.raises(ValueError, match="row 1 of the batch has an empty response"):
        reduce_tokens(VALUES, mask, reduction)


def test_an_unknown_reduction_is_an_error_that_lists_the_known_ones() -> None:
    unchecked = inspect.unwrap(reduce_tokens)  # else the tests' type checker objects first
    with pytest.raises(ValueError, match="unknown reduction 'mean'; choose one of sequence, token"):
        unchecked(VALUES, MASK, "mean")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_token_weights_give_the_same_reduction_in_parts(reduction: str) -> None:
    lengths = [3, 1, 5]
    values = torch.randn(3, 5, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    weights = token_weights(lengths, reduction)
    parts = sum(
        w * values[i, :n].sum() for i, (w, n) in enumerate(zip(weights, lengths, strict=True))
    )
    torch.testing.assert_close(parts, reduce_tokens(values, mask, reduction))


def test_token_weights_refuse_what_reduce_tokens_refuses() -> None:
    with pytest.raises(ValueError, match="row 1 of the batch has an empty response"):
        token_weights([2, 0])
    with pytest.raises(ValueError, match="unknown reduction 'sum'"):
        inspect.unwrap(token_weights)([2], "sum")
