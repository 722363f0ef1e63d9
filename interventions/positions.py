"""Keeping an edit off some positions of the prompt, also while generating."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def edit_where(
    position_mask: Bool[Tensor, "prompts width"] | None,
    edited: Float[Tensor, "batch positions dim"],
    base: Float[Tensor, "batch positions dim"],
) -> Float[Tensor, "batch positions dim"]:
    """The edited states where the mask is true, the base elsewhere.

    The mask spans the prompt. Positions after it, and the single new tokens of cached generation,
    are edited always. Its rows repeat when the batch holds several sequences per prompt.

    Raises:
        ValueError: if the mask spans one token, which no new token can be told from.
    """
    if position_mask is None or base.shape[1] < position_mask.shape[1]:
        return edited
    if position_mask.shape[1] == 1:
        raise ValueError(
            "a position_mask over one token cannot tell the prompt from new tokens; leave it out"
        )
    mask = position_mask.repeat_interleave(base.shape[0] // position_mask.shape[0], dim=0)
    grown = base.shape[1] - mask.shape[1]
    mask = torch.nn.functional.pad(mask, (0, grown), value=True)
    return torch.where(mask.unsqueeze(-1).to(base.device), edited, base)
