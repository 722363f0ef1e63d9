"""LoReFT through pyreft's own intervention, and as plain tensors.

LoReFT edits a hidden state to h + R^T (W h + b - R h), with R's rows orthonormal (ReFT paper, arXiv
2404.03592). pyreft is optional; everything here but the two functions that build its intervention
works without it. On several layers at once, by string paths::

    layers = {f"model.layers[{i}].output": build_loreft(576, 4) for i in (5, 10, 15, 20)}
    model = pyreft.get_reft_model(model, pyreft.ReftConfig(representations=[
        {"component": path, "low_rank_dimension": 4, "intervention": intervention}
        for path, intervention in layers.items()
    ]))
    model(batch, unit_locations={"sources->base": (None, [positions] * len(layers))})

What pyreft 0.1.0's `LoreftIntervention` does, measured with torch 2.13:

- Train it **without weight decay**. R is stored as Householder vectors whose diagonal, -1, is read
  through an integer cast: a single AdamW step with torch's default weight decay moves it towards 0,
  the cast makes it 0, and R is zero from then on. pyreft's own trainer never gets there: whatever
  `weight_decay` it is given, none of the parameters is in the group that decays.
- Its `load_state_dict` restores R exactly, but completes it with columns that are orthogonal to
  another, random R: as soon as the loaded intervention is trained further, R is no longer
  orthonormal (off by 0.15 after one step, at width 16). `loreft_intervention` has neither fault.
- `pyreft.ReftModel.load` fails for string paths, where pyvene passes no `embed_dim` (pyreft #125).
  Read the saved state with `LoreftTensors.from_pyreft` instead.
- W and b are bfloat16 unless told otherwise, and its forward needs the hidden states in the same
  precision: float32 W and b fail on a bfloat16 model. `loreft_edit` takes any, so train there by
  `loreft_edit(hidden, *loreft_tensors(intervention))`, through which gradients reach pyreft's
  parameters.
- Its forward takes no keyword arguments, so no `position_mask`; its dropout falls on the whole
  edited hidden state, so it is kept at 0 here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from concept_das.errors import InputError

# What a float32 R may be off by after training; far below what pyreft's loading does to it.
_ORTHONORMAL_WITHIN = 1e-4


@dataclass(frozen=True)
class LoreftTensors:
    """The parameters of one LoReFT intervention; unpacks in the order of `loreft_edit`.

    Attributes:
        rotation: R, orthonormal rows.
        weight: W.
        bias: b.
    """

    rotation: Float[Tensor, "rank dim"]
    weight: Float[Tensor, "rank dim"]
    bias: Float[Tensor, "rank"]

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.rotation, self.weight, self.bias))

    @classmethod
    def from_pyreft(cls, state: Mapping[str, Tensor]) -> "LoreftTensors":
        """From the state that pyreft saves for one intervention, as float32.

        Raises:
            InputError: if the state is not LoReFT's.
        """
        missing = {"rotate_layer", "weight", "bias"} - state.keys()
        if missing:
            raise InputError(
                f"the state has no {', '.join(sorted(missing))}; give one that pyreft saved for a "
                "LoreftIntervention"
            )
        rotation = state["rotate_layer"].T.float().contiguous()
        return cls(rotation, state["weight"].float(), state["bias"].float())

    def to_pyreft(self) -> dict[str, Tensor]:
        """The state that pyreft's `LoreftIntervention.load_state_dict` takes."""
        return {
            "weight": self.weight,
            "bias": self.bias,
            "rotate_layer": self.rotation.T.contiguous(),
        }


def loreft_edit(
    hidden: Float[Tensor, "*batch dim"],
    rotation: Float[Tensor, "rank dim"],
    weight: Float[Tensor, "rank dim"],
    bias: Float[Tensor, "rank"],
) -> Float[Tensor, "*batch dim"]:
    """h + R^T (W h + b - R h).

    Args:
        hidden: hidden states, any floating dtype.
        rotation: R.
        weight: W.
        bias: b.

    Returns:
        The edited hidden states in the dtype of `hidden`; the arithmetic is in R's.
    """
    wide = hidden.to(rotation.dtype)
    target = torch.nn.functional.linear(wide, weight, bias)
    move = (target - wide @ rotation.T) @ rotation
    return (hidden + move).to(hidden.dtype)


def build_loreft(embed_dim: int, low_rank_dimension: int) -> Any:
    """A new `pyreft.LoreftIntervention` in float32, without dropout.

    R begins random and orthonormal, W and b as torch begins a linear layer.

    Args:
        embed_dim: width of the hidden states.
        low_rank_dimension: the rank, 4 in AxBench.

    Raises:
        InputError: if pyreft is not installed, or the rank is not within the width.
    """
    if not 1 <= low_rank_dimension <= embed_dim:
        raise InputError(
            f"low_rank_dimension is {low_rank_dimension}; give 1 to {embed_dim}, the hidden size"
        )
    try:
        import pyreft
    except ImportError as error:
        raise InputError(
            'LoReFT needs pyreft; run `pip install "concept-das[reft]"`, or '
            "`pip install --no-deps pyreft==0.1.0` to keep your transformers"
        ) from error
    return pyreft.LoreftIntervention(
        embed_dim=embed_dim,
        low_rank_dimension=low_rank_dimension,
        dtype=torch.float32,
        dropout=0.0,
    )


def loreft_tensors(intervention: Any) -> LoreftTensors:
    """R, W and b of a `pyreft.LoreftIntervention`, with their graph; detach them to keep them.

    Raises:
        InputError: if it has an activation function, which the plain form has not.
    """
    probe = torch.tensor([-2.0, 3.0])
    if not torch.equal(intervention.act_fn(probe), probe):
        raise InputError("this LoReFT has an activation function; build it with act_fn=None")
    learned = intervention.learned_source
    return LoreftTensors(intervention.rotate_layer.weight.T, learned.weight, learned.bias)


def loreft_intervention(tensors: LoreftTensors) -> Any:
    """A `pyreft.LoreftIntervention` with exactly these parameters, fit to be trained further.

    The same bits for R, W and b. The columns that complete R to a basis of the whole space belong
    to it, so R stays orthonormal in training; they are always the same for the same R, and the
    global random state is left alone. On the CPU; move it where the model is.

    Raises:
        InputError: if pyreft is not installed, the shapes differ, or R is not orthonormal.
    """
    rotation, weight, bias = (tensor.detach().cpu().float() for tensor in tensors)
    rank, dim = rotation.shape
    if weight.shape != rotation.shape or bias.shape != (rank,):
        raise InputError(
            f"W has shape {tuple(weight.shape)} and b {tuple(bias.shape)}; R's shape "
            f"{(rank, dim)} asks for {(rank, dim)} and {(rank,)}"
        )
    off = float((rotation @ rotation.T - torch.eye(rank)).abs().max())
    if not off < _ORTHONORMAL_WITHIN:
        raise InputError(
            f"the rows of R are not orthonormal (off by {off:.1e}), which pyreft cannot hold; "
            "apply the tensors with loreft_edit, or pass R through orthonormal_rows first"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        intervention = build_loreft(dim, rank)
        rotate = intervention.rotate_layer
        rotate.weight = rotation.T.contiguous()  # completes the basis; R comes back rounded
        rotate.parametrizations.weight[0].base[:, :rank] = rotation.T
        intervention.learned_source.weight.copy_(weight)
        intervention.learned_source.bias.copy_(bias)
    return intervention
