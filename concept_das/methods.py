"""The methods that can be trained by name.

Each trains the same interchange in both directions; they differ in what the intervened model is
asked to match.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

import objectives
from concept_das.errors import InputError
from objectives import projected
from objectives.projected import TokenLoss

# (student logits `[tokens, vocab]`, teacher logits, labels `[tokens]`) -> one loss per token
PlainTokenLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """A training objective on top of the interchange intervention.

    Attributes:
        summary: one line for people.
        token_loss: the loss of each response token, from logits.
        token_loss_with_gradient: the same from log-probabilities, with its gradient in closed form,
            for the engine.
        has_teacher: whether the loss looks at the teacher's distribution.
    """

    name: str
    summary: str
    token_loss: PlainTokenLoss
    token_loss_with_gradient: TokenLoss
    has_teacher: bool = True


def _matching(divergence: Callable[[Tensor, Tensor], Tensor]) -> PlainTokenLoss:
    def token_loss(
        student: Float[Tensor, "tokens vocab"],
        teacher: Float[Tensor, "tokens vocab"],
        labels: Int[Tensor, "tokens"],
    ) -> Float[Tensor, "tokens"]:
        return divergence(student, teacher)

    return token_loss


def _cross_entropy(
    student: Float[Tensor, "tokens vocab"],
    teacher: Float[Tensor, "tokens vocab"],
    labels: Int[Tensor, "tokens"],
) -> Float[Tensor, "tokens"]:
    return objectives.token_cross_entropy(student, labels)


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
            _cross_entropy,
            projected.cross_entropy_with_gradient,
            has_teacher=False,
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
