"""Adding a direction with a strength that each token decides for itself."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interventions.backend import pyvene as pv
from interventions.sourceless import SourcelessEdit


def gated_add(
    hidden: Float[Tensor, "*batch dim"],
    vector: Float[Tensor, "dim"],
    gate: Float[Tensor, "dim"],
    bias: Float[Tensor, ""],
    multiplier: float = 1.0,
) -> Float[Tensor, "*batch dim"]:
    """h + m relu(g h + b) z: move along z by what the hidden state itself says (PSR, equation 8).

    Args:
        hidden: hidden states, any floating dtype.
        vector, gate, bias: z, g and b.
        multiplier: m.

    Returns:
        The moved hidden states in the dtype of `hidden`; the arithmetic is in the vector's.
    """
    strength = torch.relu(hidden.to(gate.dtype) @ gate + bias)
    return (hidden + multiplier * strength.unsqueeze(-1) * vector).to(hidden.dtype)


class GatedAdditionIntervention(SourcelessEdit, pv.TrainableIntervention):
    """Add a direction times a gate per token, relu(g h + b) z (PSR, arXiv 2605.03907).

    It begins as the identity with an open gate: z and g are zero and b is one, so that z learns
    first and no gate begins shut.

    Args:
        embed_dim: size of the hidden states.
    """

    def __init__(self, embed_dim: int, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "embed_dim": embed_dim, "keep_last_dim": True})
        self.vector = nn.Parameter(torch.zeros(embed_dim))
        self.gate = nn.Parameter(torch.zeros(embed_dim))
        self.bias = nn.Parameter(torch.ones(()))

    def __str__(self) -> str:
        return type(self).__name__ + "()"

    def edited(
        self, base: Float[Tensor, "batch positions dim"], subspaces: Any, row_factors: Any
    ) -> Float[Tensor, "batch positions dim"]:
        """Move the base at every position."""
        return gated_add(base, self.vector, self.gate, self.bias)
