"""The same losses from hidden states, without ever holding all tokens' logits.

A token's loss depends on its own hidden state only. So the vocabulary projection, the loss and its
gradient with respect to the hidden state are computed together, a few tokens at a time, and the
gradient is kept instead of the logits: memory grows with tokens x width, not tokens x vocabulary.
Any reduction or outer loss composes with the result through autograd.

Liger's fused linear JSD does the same on CUDA, but returns one scalar over all tokens: neither the
mean per sequence nor several concepts in a batch can be had from it, nor Gemma-2's softcap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from objectives.divergences import LN_2, log_probabilities

# (student log-probabilities, teacher log-probabilities or None, labels) ->
# (loss per token, gradient with respect to the student's logits); may overwrite its inputs.
TokenLoss = Callable[[Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor]]

# Log-probabilities `[part, vocab]` of a part of the tokens, in at least float32.
Teacher = Callable[[slice], Tensor]


@dataclass(frozen=True)
class Projection:
    """A language model's head: hidden state to logits.

    Attributes:
        weight: `[vocab, dim]`.
        bias: `[vocab]`, if any.
        scale: factor on the logits.
        softcap: c of `c tanh(logit / c)`, if the model caps its logits (Gemma-2).
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens vocab"]:
        """Logits in the weight's precision, as the model computes them."""
        logits = torch.nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def pull_back(
        self, gradient: Float[Tensor, "tokens vocab"], logits: Float[Tensor, "tokens vocab"]
    ) -> Float[Tensor, "tokens dim"]:
        """Gradient with respect to the hidden states from that with respect to the logits."""
        if self.softcap is not None:
            gradient = gradient * (1 - (logits.to(gradient.dtype) / self.softcap) ** 2)
        if self.scale != 1.0:
            gradient = gradient * self.scale
        return gradient.to(self.weight.dtype) @ self.weight


def jensen_shannon_with_gradient(
    log_p: Float[Tensor, "tokens vocab"],
    log_q: Float[Tensor, "tokens vocab"] | None,
    labels: Int[Tensor, "tokens"],
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens vocab"]]:
    """JS(P, Q) and p (a - sum p a) / 2, with a = log p - log m."""
    assert log_q is not None
    difference = log_q - log_p
    a = LN_2 - torch.nn.functional.softplus(difference)
    p = log_p.exp_()
    from_p = (p * a).sum(dim=-1, keepdim=True)
    from_q = difference.add_(a).mul_(log_q.exp()).sum(dim=-1)  # log q - log m = a + difference
    value = (0.5 * (from_p.squeeze(-1) + from_q)).clamp_(0.0, LN_2)
    return value, a.sub_(from_p).mul_(p).mul_(0.5)


def kl_teacher_student_with_gradient(
    log_p: Float[Tensor, "tokens vocab"],
    log_q: Float[Tensor, "tokens vocab"] | None,
    labels: Int[Tensor, "tokens"],
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens vocab"]]:
    """KL(Q || P) and p - q."""
    assert log_q is not None
    q = log_q.exp()
    value = ((log_q - log_p) * q).sum(dim=-1)
    return value, log_p.exp_().sub_(q)


def kl_student_teacher_with_gradient(
    log_p: Float[Tensor, "tokens vocab"],
    log_q: Float[Tensor, "tokens vocab"] | None,
    labels: Int[Tensor, "tokens"],
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens vocab"]]:
    """KL(P || Q) and p (r - sum p r), with r = log p - log q."""
    assert log_q is not None
    ratio = log_p - log_q
    p = log_p.exp_()
    value = (p * ratio).sum(dim=-1, keepdim=True)
    return value.squeeze(-1), ratio.sub_(value).mul_(p)


def cross_entropy_with_gradient(
    log_p: Float[Tensor, "tokens vocab"],
    log_q: Float[Tensor, "tokens vocab"] | None,
    labels: Int[Tensor, "tokens"],
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens vocab"]]:
    """-log p[label] and p - onehot."""
    index = labels.unsqueeze(-1)
    value = -log_p.gather(-1, index).squeeze(-1)
    gradient = log_p.exp_()
    gradient.scatter_add_(-1, index, torch.full_like(gradient[:, :1], -1.0))
    return value, gradient


class _ProjectedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        teacher: Teacher | None,
        labels: Tensor,
        projection: Projection,
        token_loss: TokenLoss,
        chunk: int,
    ) -> Tensor:
        values, gradients = [], []
        for start in range(0, len(hidden), chunk):
            part = slice(start, min(start + chunk, len(hidden)))
            logits = projection.logits(hidden[part])
            log_q = None if teacher is None else teacher(part)
            value, gradient = token_loss(log_probabilities(logits), log_q, labels[part])
            values.append(value)
            if hidden.requires_grad:
                gradients.append(projection.pull_back(gradient, logits))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (per_token,) = ctx.saved_tensors
        gradient = per_token.to(grad_values.dtype) * grad_values.unsqueeze(-1)
        return gradient.to(per_token.dtype), None, None, None, None, None


def projected_teacher(hidden: Float[Tensor, "tokens dim"], projection: Projection) -> Teacher:
    """A teacher from its final hidden states, projected when asked for."""
    return lambda part: log_probabilities(projection.logits(hidden[part]))


def projected_loss(
    hidden: Float[Tensor, "tokens dim"],
    teacher: Teacher | None,
    labels: Int[Tensor, "tokens"],
    projection: Projection,
    token_loss: TokenLoss,
    chunk: int = 64,
) -> Float[Tensor, "tokens"]:
    """One loss per token, from final hidden states.

    Args:
        hidden: the student's states after the final norm; gradients flow to them.
        teacher: gives the teacher's log-probabilities of a part of the same tokens; None where the
            loss needs none.
        labels: target ids, for the losses that use them.
        projection: the model's head.
        token_loss: one of the `..._with_gradient` functions of this module.
        chunk: tokens projected at a time; memory is about 6 x chunk x vocab floats.
    """
    result = _ProjectedLoss.apply(hidden, teacher, labels, projection, token_loss, chunk)
    assert isinstance(result, Tensor)
    return result
