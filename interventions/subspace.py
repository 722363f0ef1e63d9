"""Reading and writing the coordinates of a hidden state in a low-rank subspace.

Everything CDAS does to a hidden state h is `h + W^T (a - W h)`: its coordinates W h become a and
its component outside the rows of W stays as it is. That is exact if and only if the rows of W are
orthonormal.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def coordinates(
    hidden: Float[Tensor, "*batch positions dim"],
    weight: Float[Tensor, "*rows rank dim"],
) -> Float[Tensor, "*batch positions rank"]:
    """W h, computed in the weight's precision.

    Args:
        hidden: hidden states, any floating dtype.
        weight: rows of the subspace; either one `[rank, dim]` for the whole batch or one per batch
            row, `[batch, rank, dim]`.
    """
    return hidden.to(weight.dtype) @ weight.transpose(-1, -2)


def set_coordinates(
    hidden: Float[Tensor, "*batch positions dim"],
    weight: Float[Tensor, "*rows rank dim"],
    target: Float[Tensor, "*target rank"],
) -> Float[Tensor, "*batch positions dim"]:
    """h + W^T (a - W h): move the hidden state to coordinates a, leave the rest.

    Clamp(h; a) of the CDAS paper, and DII(h; h_source) when a = W h_source.

    Args:
        hidden: hidden states, any floating dtype.
        weight: orthonormal rows, as for `coordinates`. A row of zeros has no effect.
        target: the coordinates a, broadcastable to `[..., positions, rank]`.

    Returns:
        The moved hidden states in the dtype of `hidden`; the arithmetic is in the weight's.
    """
    move = (target.to(weight.dtype) - coordinates(hidden, weight)) @ weight
    # In the wider of both precisions, so that adding nothing changes nothing.
    return (hidden + move).to(hidden.dtype)


def orthonormal_rows(weight: Float[Tensor, "rank dim"]) -> Float[Tensor, "rank dim"]:
    """The nearest matrix with orthonormal rows (the polar factor); w / |w| at rank 1.

    Raises:
        ValueError: if the rows hold NaN or Inf, or are (numerically) linearly dependent.
    """
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("the direction holds NaN or Inf; lower the learning rate")
    # On the CPU: the matrix is small, and not every device has float64.
    u, s, vh = torch.linalg.svd(weight.cpu().double(), full_matrices=False)
    # Rows that depend on each other up to rounding differ by noise, which is no direction.
    bound = torch.finfo(weight.dtype).eps * max(weight.shape) * float(s[0])
    if weight.shape[0] > weight.shape[1] or float(s[-1]) <= bound:
        raise ValueError("the rows of the direction are linearly dependent; lower the rank")
    return (u @ vh).to(weight)
