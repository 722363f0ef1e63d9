"""The objective of plain DAS: cross-entropy on the source's response."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from objectives.divergences import log_probabilities
from objectives.names import Reduction
from objectives.reduction import reduce_tokens


def token_cross_entropy(
    student_logits: Float[Tensor, "*batch vocab"], labels: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """-log p[label], in nats, one value per position."""
    log_p = log_probabilities(student_logits)
    return -torch.gather(log_p, -1, labels.unsqueeze(-1)).squeeze(-1)


def das_loss(
    student_logits: Float[Tensor, "batch response vocab"],
    labels: Int[Tensor, "batch response"],
    mask: Bool[Tensor, "batch response"],
    reduction: Reduction = "sequence",
) -> Float[Tensor, ""]:
    """Cross-entropy of the intervened model on the response tokens, in nats.

    DAS as the CDAS paper's baseline uses it: the same interchange, but the target is the source's
    response text and not the source's distribution.

    Args:
        student_logits: logits that predict the response tokens, intervened model.
        labels: the response token ids; padding may hold any valid id.
        mask: true where a response token is.
        reduction: see `reduce_tokens`.
    """
    return reduce_tokens(token_cross_entropy(student_logits, labels), mask, reduction)
