"""DiffMean: the direction from the mean neutral hidden state to the mean concept one."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from concept_das.errors import InputError

# Relative to the means: two float32 means this close differ by rounding alone.
_SAME_WITHIN = 1e-9


@dataclass(frozen=True)
class MeanDifference:
    """A difference of means, as direction and length.

    Attributes:
        direction: unit length, float32.
        norm: length of the difference, in the units of the hidden states. Adding `norm *
            direction` moves the neutral mean onto the concept mean.
    """

    direction: Float[Tensor, "dim"]
    norm: float


def diff_mean(
    concept_states: Float[Tensor, "concept_tokens dim"],
    neutral_states: Float[Tensor, "neutral_tokens dim"],
) -> MeanDifference:
    """Mean of the concept's hidden states minus mean of the neutral ones.

    Which tokens' states to give is the protocol's choice, not this function's:

    - AxBench takes every token after the template prefix, of prompt and response, of all positive
      and all negative texts, pooled: long texts weigh more. It steers by
      `h + factor * max_act * direction`, max_act being the largest `direction . h` over the
      concept's texts.
    - The CDAS paper reports DiffMean (DiM) on refusal and on the backdoor without, as far as could
      be found, saying at which tokens. The usual refusal direction is the difference at a token
      between the prompt and the response, which is this project's source position (inferred).

    Args:
        concept_states: hidden states of concept texts at one site, any floating dtype.
        neutral_states: those of neutral texts.

    Returns:
        Direction and norm; the means are taken in float64.

    Raises:
        InputError: if one of them is empty or not finite, or the means are the same.
    """
    means = []
    for name, states in (("concept", concept_states), ("neutral", neutral_states)):
        if states.shape[0] == 0:
            raise InputError(f"there are no {name} states; give at least one text of each kind")
        # On the CPU: not every device has float64.
        mean = states.detach().cpu().double().mean(dim=0)
        if not bool(torch.isfinite(mean).all()):
            raise InputError(
                f"the {name} states hold NaN or Inf; run the model in bfloat16 or float32"
            )
        means.append(mean)
    concept, neutral = means
    difference = concept - neutral
    norm = float(difference.norm())
    if norm <= _SAME_WITHIN * float(concept.norm() + neutral.norm()):
        raise InputError(
            "the concept and the neutral states have the same mean, so there is no direction "
            "between them; check that their texts differ before the tokens given"
        )
    return MeanDifference((difference / norm).float(), norm)
