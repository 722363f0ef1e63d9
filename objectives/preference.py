"""Preference losses: make one response likelier than another.

Every function takes the log-probability of whole responses, `log p(response | prompt)` summed over
the response tokens, in nats, one value per pair, `[batch]`. Where a paper divides by the length it
is divided here, so no caller has to know which paper does. "reference" is the untouched model on
the same prompt; no gradient is taken through it. Each function returns one loss per pair; all the
papers take the mean.

What the papers leave open, or their code contradicts, is noted where it is decided. The formulas of
RePS and BiPO are read from public summaries of the papers and from released code, not from the
papers' own text.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def preference_scale(
    reference_winner: Float[Tensor, "batch"],
    reference_loser: Float[Tensor, "batch"],
    scaler: float = 1.0,
) -> Float[Tensor, "batch"]:
    """max(scaler * (log p_ref(loser) - log p_ref(winner)), 1): weight of the winner's likelihood.

    The RePS paper (arXiv 2505.20809): the less likely the untouched model finds the winner, the
    more it weighs. The logarithms are sums over the response and not means, in the paper and in
    AxBench's code. The CDAS authors' code for PDAS has the difference the other way round, which
    weighs up what the model says anyhow; to repeat that, swap the two arguments.

    Args:
        reference_winner: log-probability of the preferred response, untouched model.
        reference_loser: that of the other response.
        scaler: factor on the difference; 1 in all published settings.
    """
    difference = _wide(reference_loser.detach()) - _wide(reference_winner.detach())
    return (scaler * difference).clamp_min(1.0)


def scaled_simpo_loss(
    winner: Float[Tensor, "batch"],
    loser: Float[Tensor, "batch"],
    winner_length: Int[Tensor, "batch"],
    loser_length: Int[Tensor, "batch"],
    scale: Float[Tensor, "batch"],
    gamma: float = 0.0,
) -> Float[Tensor, "batch"]:
    """-log sigmoid(scale * log p(winner) / |winner| - log p(loser) / |loser| - gamma).

    SimPO with beta = 1 where the scale is 1. The lengths are those of the responses, as the papers
    write |y|; AxBench's code for RePS divides by the length of prompt and response together.

    Args:
        winner: log-probability of the preferred response, intervened model.
        loser: that of the other response.
        winner_length: number of tokens of the preferred response.
        loser_length: number of tokens of the other response.
        scale: factor on the winner's mean log-probability, see `preference_scale`.
        gamma: the margin by which the winner should be ahead, in nats per token.

    Raises:
        ValueError: if a response has no tokens.
    """
    margin = scale.detach() * _per_token(winner, winner_length) - _per_token(loser, loser_length)
    return -torch.nn.functional.logsigmoid(margin - gamma)


def pdas_loss(
    winner: Float[Tensor, "batch"],
    loser: Float[Tensor, "batch"],
    reference_winner: Float[Tensor, "batch"],
    reference_loser: Float[Tensor, "batch"],
    winner_length: Int[Tensor, "batch"],
    loser_length: Int[Tensor, "batch"],
    gamma: float = 0.0,
    scaler: float = 1.0,
) -> Float[Tensor, "batch"]:
    """Preference on an interchange: PDAS of the CDAS paper, its `scaled_simpo` form.

    The winner is the source's response and the loser the base's, both after the base prompt and
    under the interchange from the source prompt; the references are the untouched model on the
    *base* prompt (authors' code). The scale has the sign of the RePS paper's formula, see
    `preference_scale` (inferred: the CDAS paper's own formula was not found, and the authors' code
    has the sign reversed). Their beta is not used by their code and left out. PDAS with DPO is
    `dpo_loss`, with the references on the *source* prompt (authors' code).

    Args:
        winner, loser, winner_length, loser_length, gamma: see `scaled_simpo_loss`.
        reference_winner, reference_loser, scaler: see `preference_scale`.
    """
    scale = preference_scale(reference_winner, reference_loser, scaler)
    return scaled_simpo_loss(winner, loser, winner_length, loser_length, scale, gamma)


def reps_steer_loss(
    concept: Float[Tensor, "batch"],
    neutral: Float[Tensor, "batch"],
    reference_concept: Float[Tensor, "batch"],
    reference_neutral: Float[Tensor, "batch"],
    concept_length: Int[Tensor, "batch"],
    neutral_length: Int[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    """RePS with a positive factor: -log sigmoid(Delta+), the concept's response wins.

    Delta+ = beta+ log p(y^c | x) / |y^c| - log p(y | x) / |y|, both under h + factor * w, with
    beta+ = max(log p_ref(y | x) - log p_ref(y^c | x), 1) (RePS paper; AxBench's pair `orig_add`).
    AxBench draws one factor for the winner and another for the loser.

    The paper's objective is the sum of this and `reps_suppress_loss`; AxBench's code averages the
    two. They differ by the learning rate only, and under Adam hardly by that.

    Args:
        concept: log-probability of y^c after the neutral prompt x, steered model.
        neutral: that of y.
        reference_concept, reference_neutral: the same of the untouched model.
        concept_length, neutral_length: number of tokens of y^c and of y.
    """
    scale = preference_scale(reference_concept, reference_neutral)
    return scaled_simpo_loss(concept, neutral, concept_length, neutral_length, scale)


def reps_suppress_loss(
    concept: Float[Tensor, "batch"],
    neutral: Float[Tensor, "batch"],
    reference_concept: Float[Tensor, "batch"],
    reference_neutral: Float[Tensor, "batch"],
    concept_length: Int[Tensor, "batch"],
    neutral_length: Int[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    """RePS with the direction nulled out: -log sigmoid(Delta-), the neutral response wins.

    Delta- = beta- log p(y | x) / |y| - log p(y^c | x) / |y^c|, both under
    `interventions.null_out`, with beta- = max(log p_ref(y^c | x) - log p_ref(y | x), 1) (RePS
    paper; AxBench's pair `orig_sub`). AxBench's code takes x with the concept's steering prompt in
    it, so x is the concept prompt here; the summaries of the paper only say x.

    Args:
        concept: log-probability of y^c after the concept prompt, direction nulled out.
        neutral: that of y.
        reference_concept, reference_neutral: the same of the untouched model.
        concept_length, neutral_length: number of tokens of y^c and of y.
    """
    scale = preference_scale(reference_neutral, reference_concept)
    return scaled_simpo_loss(neutral, concept, neutral_length, concept_length, scale)


def dpo_loss(
    winner: Float[Tensor, "batch"],
    loser: Float[Tensor, "batch"],
    reference_winner: Float[Tensor, "batch"],
    reference_loser: Float[Tensor, "batch"],
    beta: float = 1.0,
) -> Float[Tensor, "batch"]:
    """-log sigmoid(beta [(log p - log p_ref)(winner) - (log p - log p_ref)(loser)]).

    Direct preference optimisation (arXiv 2305.18290, equation 7), no length normalisation and no
    label smoothing.

    Args:
        winner: log-probability of the preferred response, intervened model.
        loser: that of the other response.
        reference_winner, reference_loser: the same of the untouched model.
        beta: 1 in PDAS and in AxBench's BiPO; 0.1 to 0.5 is usual for whole models.
    """
    won = _wide(winner) - _wide(reference_winner.detach())
    lost = _wide(loser) - _wide(reference_loser.detach())
    return -torch.nn.functional.logsigmoid(beta * (won - lost))


def bipo_loss(
    concept: Float[Tensor, "batch"],
    neutral: Float[Tensor, "batch"],
    reference_concept: Float[Tensor, "batch"],
    reference_neutral: Float[Tensor, "batch"],
    sign: Float[Tensor, "batch"] | int,
    beta: float = 1.0,
) -> Float[Tensor, "batch"]:
    """-log sigmoid(d beta [(log p - log p_ref)(concept) - (log p - log p_ref)(neutral)]).

    BiPO (arXiv 2406.00045): DPO with the vector added (d = +1), and with it subtracted (d = -1),
    where the roles are swapped. The paper draws one d per batch, uniformly; AxBench runs both.

    Args:
        concept: log-probability of the concept's response under h + d * w.
        neutral: that of the neutral response under the same.
        reference_concept, reference_neutral: the same of the untouched model.
        sign: d, +1 or -1, one for all pairs or one each.
        beta: 1 in AxBench, 0.1 in the BiPO paper.

    Raises:
        ValueError: if a sign is neither +1 nor -1.
    """
    d = torch.as_tensor(sign, dtype=_wide(concept).dtype, device=concept.device)
    if not bool((d.abs() == 1).all()):
        raise ValueError(f"sign must be +1 or -1 for every pair, not {d.tolist()}")
    gained = _wide(concept) - _wide(reference_concept.detach())
    lost = _wide(neutral) - _wide(reference_neutral.detach())
    return -torch.nn.functional.logsigmoid(d * beta * (gained - lost))


def _wide(values: Tensor) -> Tensor:
    """At least float32: sums over a response are large, and their differences small."""
    return values if values.dtype == torch.float64 else values.float()


def _per_token(
    total: Float[Tensor, "batch"], length: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    if not bool((length > 0).all()):
        row = int((length <= 0).nonzero()[0])
        raise ValueError(f"row {row} of the batch has an empty response; drop it from the data")
    return _wide(total) / length
