"""From one value per response token to one scalar."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from objectives.names import REDUCTIONS, Reduction


def reduce_tokens(
    values: Float[Tensor, "batch response"],
    mask: Bool[Tensor, "batch response"],
    reduction: Reduction = "sequence",
) -> Float[Tensor, ""]:
    """Average over response tokens.

    Args:
        values: one value per response token; padding may hold anything, even NaN.
        mask: true where a response token is.
        reduction: `"sequence"` averages within each response first and then over responses, as the
            CDAS paper writes its objective; `"token"` pools all tokens of the batch, as the
            authors' code does, so that long responses weigh more.

    Raises:
        ValueError: if a response has no tokens, or the reduction is unknown.
    """
    lengths = mask.sum(dim=1)
    if not bool((lengths > 0).all()):
        row = int((lengths == 0).nonzero()[0])
        raise ValueError(f"row {row} of the batch has an empty response; drop it from the data")
    kept = values.masked_fill(~mask, 0.0)
    if reduction == "sequence":
        return (kept.sum(dim=1) / lengths).mean()
    if reduction == "token":
        return kept.sum() / lengths.sum()
    raise ValueError(f"unknown reduction {reduction!r}; choose one of {', '.join(REDUCTIONS)}")


def token_weights(lengths: Sequence[int], reduction: Reduction = "sequence") -> list[float]:
    """The weight of each response's tokens in `reduce_tokens`, one number per response.

    So a batch can be computed in parts: the sum over responses of weight x (sum over tokens) is the
    reduced loss.

    Args:
        lengths: tokens of each response of the batch.

    Raises:
        ValueError: if a response has no tokens, or the reduction is unknown.
    """
    if min(lengths) < 1:
        raise ValueError(f"row {lengths.index(0)} of the batch has an empty response; drop it")
    if reduction == "sequence":
        return [1 / (length * len(lengths)) for length in lengths]
    if reduction == "token":
        return [1 / sum(lengths)] * len(lengths)
    raise ValueError(f"unknown reduction {reduction!r}; choose one of {', '.join(REDUCTIONS)}")
