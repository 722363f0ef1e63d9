"""Preference losses: make one response likelier than another.

Every function takes pairs of responses and returns one loss for each pair, `[batch]`; all the
papers take the mean. Where a paper divides by the length, the function divides, so a caller need
not know which paper does. No gradient is taken through the reference.

What the papers leave open, or their code contradicts, is noted where it is decided. The formulas of
RePS and BiPO are read from public summaries of the papers and from released code, not from the
papers' own text.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Response:
    """One response for each pair of a batch.

    Attributes:
        log_p: `log p(response | prompt)` under the intervened model, summed over the response
            tokens, in nats.
        reference: the same under the untouched model.
        length: number of response tokens.
    """

    log_p: Float[Tensor, "batch"]
    reference: Float[Tensor, "batch"]
    length: Int[Tensor, "batch"]


def preference_scale(
    winner: Response, loser: Response, scaler: float = 1.0
) -> Float[Tensor, "batch"]:
    """max(scaler * (log p_ref(loser) - log p_ref(winner)), 1): weight of the winner's likelihood.

    The RePS paper (arXiv 2505.20809): the less likely the untouched model finds the winner, the
    more it weighs. The logarithms are sums over the response and not means, in the paper and in
    AxBench's code. The CDAS authors' code for PDAS has the difference the other way round, which
    gives more weight to what the model says anyway; to repeat that, swap the two arguments.

    Args:
        winner: the preferred response; only the reference is used.
        loser: the other response; only the reference is used.
        scaler: factor on the difference; 1 in all published settings.
    """
    difference = _wide(loser.reference.detach()) - _wide(winner.reference.detach())
    return (scaler * difference).clamp_min(1.0)


def scaled_simpo_loss(
    winner: Response, loser: Response, scale: Float[Tensor, "batch"], gamma: float = 0.0
) -> Float[Tensor, "batch"]:
    """-log sigmoid(scale * log p(winner) / |winner| - log p(loser) / |loser| - gamma).

    SimPO with beta = 1 where the scale is 1. The lengths are those of the responses, as the papers
    write |y|; AxBench's code for RePS divides by the length of prompt and response together.

    Args:
        winner: the preferred response.
        loser: the other response.
        scale: factor on the winner's mean log-probability, see `preference_scale`.
        gamma: the margin by which the winner should be ahead, in nats per token.

    Raises:
        ValueError: if a response has no tokens.
    """
    margin = scale.detach() * _per_token(winner) - _per_token(loser)
    return -torch.nn.functional.logsigmoid(margin - gamma)


def pdas_loss(
    winner: Response, loser: Response, gamma: float = 0.0, scaler: float = 1.0
) -> Float[Tensor, "batch"]:
    """Preference on an interchange: PDAS of the CDAS paper, its `scaled_simpo` form.

    The winner is the source's response and the loser the base's, both after the base prompt and
    under the interchange from the source prompt; the references are the untouched model on the
    *base* prompt (authors' code). The scale has the sign of the RePS paper's formula, see
    `preference_scale` (inferred: the CDAS paper's own formula was not found, and the authors' code
    has the sign reversed). Their beta is not used by their code and left out. PDAS with DPO is
    `dpo_loss`, with the references on the *source* prompt (authors' code).

    Args:
        winner: the source's response.
        loser: the base's response.
        gamma: see `scaled_simpo_loss`.
        scaler: see `preference_scale`.
    """
    return scaled_simpo_loss(winner, loser, preference_scale(winner, loser, scaler), gamma)


def reps_steer_loss(concept: Response, neutral: Response) -> Float[Tensor, "batch"]:
    """RePS with a positive factor: -log sigmoid(Delta+), the concept's response wins.

    Delta+ = beta+ log p(y^c | x) / |y^c| - log p(y | x) / |y|, both under h + factor * w, with
    beta+ = max(log p_ref(y | x) - log p_ref(y^c | x), 1) (RePS paper; AxBench's pair `orig_add`).
    AxBench draws one factor for the winner and another for the loser.

    The paper's objective is the sum of this and `reps_suppress_loss`; AxBench's code averages the
    two. They differ by the learning rate only, and under Adam hardly by that.

    Args:
        concept: y^c after the neutral prompt x, steered.
        neutral: y after the same prompt, steered.
    """
    return scaled_simpo_loss(concept, neutral, preference_scale(concept, neutral))


def reps_suppress_loss(concept: Response, neutral: Response) -> Float[Tensor, "batch"]:
    """RePS with the direction nulled out: -log sigmoid(Delta-), the neutral response wins.

    Delta- = beta- log p(y | x) / |y| - log p(y^c | x) / |y^c|, both under
    `interventions.null_out`, with beta- = max(log p_ref(y^c | x) - log p_ref(y | x), 1) (RePS
    paper; AxBench's pair `orig_sub`). AxBench's code takes x with the concept's steering prompt in
    it, so x is the concept prompt here; the summaries of the paper only say x.

    Args:
        concept: y^c after the concept prompt, with the direction nulled out.
        neutral: y after the same prompt, with the direction nulled out.
    """
    return scaled_simpo_loss(neutral, concept, preference_scale(neutral, concept))


def dpo_loss(winner: Response, loser: Response, beta: float = 1.0) -> Float[Tensor, "batch"]:
    """-log sigmoid(beta [(log p - log p_ref)(winner) - (log p - log p_ref)(loser)]).

    Direct preference optimisation (arXiv 2305.18290, equation 7), no length normalisation and no
    label smoothing.

    Args:
        winner: the preferred response.
        loser: the other response.
        beta: 1 in PDAS and in AxBench's BiPO; 0.1 to 0.5 is usual for whole models.
    """
    return -torch.nn.functional.logsigmoid(beta * (_gain(winner) - _gain(loser)))


def bipo_loss(
    concept: Response,
    neutral: Response,
    sign: Float[Tensor, "batch"] | int,
    beta: float = 1.0,
) -> Float[Tensor, "batch"]:
    """-log sigmoid(d beta [(log p - log p_ref)(concept) - (log p - log p_ref)(neutral)]).

    BiPO (arXiv 2406.00045): DPO with the vector added (d = +1), and with it subtracted (d = -1),
    where the roles are swapped. The paper draws one d per batch, uniformly; AxBench runs both.

    Args:
        concept: the concept's response under h + d * w.
        neutral: the neutral response under the same.
        sign: d, +1 or -1, one for all pairs or one for each.
        beta: 1 in AxBench, 0.1 in the BiPO paper.

    Raises:
        ValueError: if a sign is neither +1 nor -1.
    """
    margin = _gain(concept) - _gain(neutral)
    d = torch.as_tensor(sign, dtype=margin.dtype, device=margin.device)
    if not bool((d.abs() == 1).all()):
        raise ValueError(f"sign must be +1 or -1 for every pair, not {d.tolist()}")
    return -torch.nn.functional.logsigmoid(d * beta * margin)


def _wide(values: Tensor) -> Tensor:
    """At least float32: sums over a response are large, and their differences small."""
    return values if values.dtype == torch.float64 else values.float()


def _gain(response: Response) -> Float[Tensor, "batch"]:
    """The log-probability gained over the untouched model."""
    return _wide(response.log_p) - _wide(response.reference.detach())


def _per_token(response: Response) -> Float[Tensor, "batch"]:
    if not bool((response.length > 0).all()):
        row = int((response.length <= 0).nonzero()[0])
        raise ValueError(f"row {row} of the batch has an empty response; drop it from the data")
    return _wide(response.log_p) / response.length
