"""The methods that can be trained by name.

Each trains the same interchange in both directions; they differ in what the intervened model is
asked to match.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

import objectives
from concept_das.errors import InputError
from objectives import projected
from objectives.projected import TokenLoss
from objectives.reduction import Reduction

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Reduction], Tensor]


@dataclass(frozen=True)
class Method:
    """A training objective on top of the interchange intervention.

    Attributes:
        summary: one line for people.
        loss: `(student_logits, teacher_logits, labels, mask, reduction) -> scalar`, with logits
            `[batch, response, vocab]` and labels and mask `[batch, response]`.
        token_loss: the same loss per token with its gradient, for the engine.
    """

    name: str
    summary: str
    loss: Loss
    token_loss: TokenLoss


def _matching(divergence: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    def loss(
        student_logits: Float[Tensor, "batch response vocab"],
        teacher_logits: Float[Tensor, "batch response vocab"],
        labels: Int[Tensor, "batch response"],
        mask: Bool[Tensor, "batch response"],
        reduction: Reduction,
    ) -> Float[Tensor, ""]:
        return objectives.interchange_loss(
            student_logits, teacher_logits, mask, reduction, divergence
        )

    return loss


def _das(
    student_logits: Float[Tensor, "batch response vocab"],
    teacher_logits: Float[Tensor, "batch response vocab"],
    labels: Int[Tensor, "batch response"],
    mask: Bool[Tensor, "batch response"],
    reduction: Reduction,
) -> Float[Tensor, ""]:
    return objectives.das_loss(student_logits, labels, mask, reduction)


METHODS = {
    method.name: method
    for method in (
        Method(
            "cdas",
            "Jensen-Shannon divergence to the source's distribution (the paper's method)",
            _matching(objectives.jensen_shannon),
            projected.jensen_shannon_with_gradient,
        ),
        Method(
            "kl_teacher_student",
            "ablation: KL(teacher || student) in place of the JSD",
            _matching(objectives.kl_teacher_student),
            projected.kl_teacher_student_with_gradient,
        ),
        Method(
            "kl_student_teacher",
            "ablation: KL(student || teacher) in place of the JSD",
            _matching(objectives.kl_student_teacher),
            projected.kl_student_teacher_with_gradient,
        ),
        Method(
            "das",
            "baseline: cross-entropy on the source's response text",
            _das,
            projected.cross_entropy_with_gradient,
        ),
    )
}


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: naming the known ones.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
