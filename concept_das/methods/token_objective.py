"""The loss of one response token, by logits and, for the fast engine, with its gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from objectives import token_cross_entropy
from objectives.projected import TokenLoss, cross_entropy_with_gradient

# (student logits `[tokens, vocab]`, teacher logits, labels `[tokens]`) -> one loss per token
PlainTokenLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

# (student's hidden states `[sites, tokens, dim]`, the teacher's) -> one loss per token
StatesLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TokenObjective:
    """The loss of a response token.

    Attributes:
        plain: computes it from logits.
        with_gradient: computes it from log-probabilities, with its gradient in closed form.
        has_teacher: true if the loss uses the teacher's distribution.
        states: computes it from hidden states instead, those after the edit at every site.
    """

    plain: PlainTokenLoss
    with_gradient: TokenLoss
    has_teacher: bool = True
    states: StatesLoss | None = None

    @classmethod
    def of_states(cls, states: StatesLoss) -> "TokenObjective":
        """A loss of hidden states at the tokens that predict the response."""

        def unused(*_: Any) -> Any:
            raise AssertionError("this loss is computed from hidden states")

        return cls(unused, unused, has_teacher=True, states=states)


def matching(
    divergence: Callable[[Tensor, Tensor], Tensor], with_gradient: TokenLoss | None = None
) -> TokenObjective:
    """The objective of matching the teacher's distribution in a divergence.

    Args:
        divergence: (student logits `[tokens, vocab]`, teacher logits) -> one value per token.
        with_gradient: the same in closed form, which takes less time and memory; by autograd if
            None.
    """

    def plain(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return divergence(student, teacher)

    def by_autograd(
        log_p: Tensor, log_q: Tensor | None, labels: Tensor, scratch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        assert log_q is not None
        with torch.enable_grad():
            # Log-probabilities are logits too, so this is the gradient with respect to those.
            logits = log_p.detach().clone().requires_grad_()
            values = divergence(logits, log_q)
            (gradient,) = torch.autograd.grad(values.sum(), logits)
        return values.detach(), gradient

    return TokenObjective(plain, with_gradient or by_autograd)


def _likelihood(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return token_cross_entropy(student, labels)


LIKELIHOOD = TokenObjective(_likelihood, cross_entropy_with_gradient, has_teacher=False)
