"""Training objectives on plain tensors.

Nothing here knows about models, tokenizers or interventions: every function takes logits that have
already been picked at the response positions, or whole responses' log-probabilities, and returns a
tensor.
"""

from objectives.das import das_loss, token_cross_entropy
from objectives.divergences import (
    jensen_shannon,
    kl_student_teacher,
    kl_teacher_student,
    log_probabilities,
)
from objectives.interchange import elicit_loss, interchange_loss, suppress_loss
from objectives.preference import (
    bipo_loss,
    dpo_loss,
    pdas_loss,
    preference_scale,
    reps_steer_loss,
    reps_suppress_loss,
    scaled_simpo_loss,
)
from objectives.reduction import REDUCTIONS, reduce_tokens, token_weights

__all__ = [
    "REDUCTIONS",
    "bipo_loss",
    "das_loss",
    "dpo_loss",
    "elicit_loss",
    "interchange_loss",
    "jensen_shannon",
    "kl_student_teacher",
    "kl_teacher_student",
    "log_probabilities",
    "pdas_loss",
    "preference_scale",
    "reduce_tokens",
    "reps_steer_loss",
    "reps_suppress_loss",
    "scaled_simpo_loss",
    "suppress_loss",
    "token_cross_entropy",
    "token_weights",
]
