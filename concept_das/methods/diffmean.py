"""DiffMean: add the difference between the mean concept and the mean neutral hidden state.

Nothing is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from concept_das.data.chat_format import Turn
from concept_das.errors import InputError
from concept_das.methods.base import Fit, FittedMethod
from concept_das.models.blocks import Site, find_site
from concept_das.models.logits import hidden_states_of
from concept_das.steering.vector import SteeringVector

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

    The caller chooses the tokens, and the protocols differ:

    - AxBench takes every token after the template prefix, of prompt and response, of all positive
      and all negative texts, pooled: long texts weigh more. It steers by
      `h + factor * max_act * direction`, max_act being the largest `direction . h` over the
      concept's texts.
    - The usual refusal direction is the difference at one token at the end of the prompts, harmful
      against harmless (Arditi et al., arXiv 2406.11717).
    - The CDAS paper reports DiffMean (DiM) on refusal and on the backdoor without, as far as could
      be found, saying at which tokens.

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


class DiffMean(FittedMethod):
    """The unit direction from the mean hidden state of neutral texts to that of concept texts.

    The setting `means` names the tokens. `all`, as in AxBench: every token after the template
    prefix, of instruction and response, the instruction without the concept asked for in both;
    factors in units of the largest coordinate over the concept's texts (`max_act`). On refusal that
    never sees a harmful prompt. `source_token`, as for the refusal direction (Arditi et al., arXiv
    2406.11717): the source token of the concept prompts and of the neutral ones; factors in units
    of the means' distance, so that 1 moves the neutral mean onto the concept's. The CDAS paper does
    not say at which tokens its DiM is taken.

    Use it where seconds count.
    """

    name = "diffmean"
    is_served = True
    summary = "baseline: difference of the mean hidden states of concept and neutral texts"
    steering = "add multiplier x the largest coordinate of a concept text; negative to suppress"

    def fit(self, task: Fit) -> SteeringVector:
        """The direction and its scale."""
        site = find_site(task.model, task.layer)
        at_source = task.config.means == "source_token"
        # The elicited base and the suppressing source are neutral prompts, the eliciting source is
        # a concept prompt.
        concept_turns = [
            row.elicit.source if at_source else row.elicit.base for row in task.encoded
        ]
        concept = _states(task, site, concept_turns)
        neutral = _states(task, site, [row.suppress.source for row in task.encoded])
        difference = diff_mean(concept, neutral)
        unit = (concept @ difference.direction).max().reshape(1)
        if at_source:
            unit = torch.tensor([difference.norm])
        return SteeringVector(
            weight=difference.direction.unsqueeze(0),
            negative_factor=-unit,
            positive_factor=unit,
            operation="add",
            layer=site.layer,
            **task.common,
        )


def _states(task: Fit, site: Site, turns: Sequence[Turn]) -> Float[Tensor, "tokens dim"]:
    """Hidden states of the tokens that are averaged, in float32 on the CPU."""
    found = []
    for batch, (hidden,) in hidden_states_of(task.model, [site], turns, 8):
        for states, turn in zip(hidden, batch.rows, strict=True):
            read = slice(turn.prompt.prefix_length, len(turn.ids))
            if task.config.means == "source_token":
                read = slice(turn.prompt.source_position, turn.prompt.source_position + 1)
            found.append(states[read].float().cpu())
    return torch.cat(found)
