"""The two losses of Concept DAS, and the ablations that swap their divergence.

Both directions have the same form. They differ in which prompt is the base, which is the source,
and whose response is scored:

| direction      | base prompt      | source prompt    | response           |
| -------------- | ---------------- | ---------------- | ------------------ |
| elicit   (D+)  | neutral x        | concept x^c      | concept y^c        |
| suppress (D-)  | concept x^c      | neutral x        | neutral y          |

The student is the model on (base prompt + response) with the base's coordinate swapped for the
source's; the teacher is the untouched model on (source prompt + response).
"""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

from objectives.divergences import jensen_shannon
from objectives.names import Reduction
from objectives.reduction import reduce_tokens

Divergence = Callable[[Tensor, Tensor], Tensor]


def interchange_loss(
    student_logits: Float[Tensor, "batch response vocab"],
    teacher_logits: Float[Tensor, "batch response vocab"],
    mask: Bool[Tensor, "batch response"],
    reduction: Reduction = "sequence",
    divergence: Divergence = jensen_shannon,
) -> Float[Tensor, ""]:
    """Mean divergence between student and teacher over response tokens.

    Args:
        student_logits: logits that predict the response tokens, intervened model.
        teacher_logits: logits that predict the same tokens, untouched model on the source. No
            gradient is taken through them.
        mask: true where a response token is.
        reduction: see `reduce_tokens`.
        divergence: `jensen_shannon` for CDAS, one of the KLs for the ablations.
    """
    per_token = divergence(student_logits, teacher_logits.detach())
    return reduce_tokens(per_token, mask, reduction)


def elicit_loss(
    student_logits: Float[Tensor, "batch response vocab"],
    teacher_logits: Float[Tensor, "batch response vocab"],
    mask: Bool[Tensor, "batch response"],
    reduction: Reduction = "sequence",
) -> Float[Tensor, ""]:
    """D+ of the CDAS paper (forward JSD) and, as `suppress_loss`, its D- (reverse JSD).

    The two are one function of different rows, see the table above. This is the readable reference
    form: training computes the same values faster, and a test holds them equal.
    """
    return interchange_loss(student_logits, teacher_logits, mask, reduction)


suppress_loss = elicit_loss
