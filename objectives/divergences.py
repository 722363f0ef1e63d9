"""Divergences between two next-token distributions, computed in log space.

All of them take logits, work in float32 (or float64 where the input is) whatever the input's
precision, use natural logarithms and sum over the whole vocabulary. A token whose probability
underflows in both distributions contributes exactly zero: no division, no `0 * inf`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# Stands for log 0. Far below any log-probability of a real token, yet finite, so that
# differences of two such values are 0 and not NaN.
LOG_ZERO = -1e30

LN_2 = math.log(2.0)


def log_probabilities(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """Log-softmax over the last axis in at least float32, with log 0 replaced by a finite floor.

    Args:
        logits: unnormalised scores, any floating dtype; `-inf` marks an impossible token.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    return torch.log_softmax(logits, dim=-1).clamp_min(LOG_ZERO)


def jensen_shannon(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """Jensen-Shannon divergence of two next-token distributions, in nats.

    JS(P, Q) = KL(P || M) / 2 + KL(Q || M) / 2 with M = (P + Q) / 2 (CDAS paper, section on the
    training objective). Symmetric, zero iff P = Q, and at most ln 2.

    With p = log P and q = log Q, `log P - log M = ln 2 - softplus(q - p)`, which never forms M.

    Args:
        student_logits: logits of the intervened model.
        teacher_logits: logits of the model it should match.

    Returns:
        One value in [0, ln 2] per position.
    """
    p = log_probabilities(student_logits)
    q = log_probabilities(teacher_logits)
    half_student = p.exp() * (LN_2 - torch.nn.functional.softplus(q - p))
    half_teacher = q.exp() * (LN_2 - torch.nn.functional.softplus(p - q))
    value = 0.5 * (half_student + half_teacher).sum(dim=-1)
    # Rounding can step outside the range by one part in 1e7; the gradient is left alone.
    return value + (value.clamp(0.0, LN_2) - value).detach()


def kl_teacher_student(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """KL(teacher || student), in nats: the mass-covering direction.

    The authors' code calls this one "reverse"; most of the literature calls it "forward". The name
    here is the formula.
    """
    p = log_probabilities(student_logits)
    q = log_probabilities(teacher_logits)
    return (q.exp() * (q - p)).sum(dim=-1)


def kl_student_teacher(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """KL(student || teacher), in nats: the mode-seeking direction.

    The authors' code calls this one "forward"; see `kl_teacher_student`.
    """
    return kl_teacher_student(teacher_logits, student_logits)
