"""The same losses from hidden states, without ever holding all tokens' logits.

A token's loss depends on its own hidden state only. So the vocabulary projection, the loss and its
gradient with respect to the hidden state are computed together, a few tokens at a time, and the
gradient is kept instead of the logits: memory grows with tokens x width, not tokens x vocabulary.
Any reduction or outer loss composes with the result through autograd.

Everything of the size of the vocabulary is written into a few buffers that are made once: on a CPU,
asking the system for such large tensors again and again costs ten times the arithmetic on them.

Liger's fused linear JSD does the same on CUDA, but returns one scalar over all tokens: neither the
mean per sequence nor several concepts in a batch can be had from it, nor Gemma-2's softcap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from objectives.divergences import LN_2, LOG_ZERO

# (student log-probabilities, teacher log-probabilities or None, labels, two scratch tensors) ->
# (loss per token, gradient with respect to the student's logits). All but the labels may be
# overwritten, and the gradient is in one of them.
TokenLoss = Callable[[Tensor, Tensor | None, Tensor, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]

# Writes the log-probabilities of a part of the tokens into `[part, vocab]`; a scratch tensor of the
# same shape beside it.
Teacher = Callable[[slice, Tensor, Tensor], None]


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

    def logits(
        self, hidden: Float[Tensor, "tokens dim"], out: Tensor | None = None
    ) -> Float[Tensor, "tokens vocab"]:
        """Logits in the weight's precision, as the model computes them.

        Args:
            out: where to write them, of that shape and precision.
        """
        logits = torch.mm(hidden.to(self.weight.dtype), self.weight.T, out=out)
        if self.bias is not None:
            logits = torch.add(logits, self.bias, out=out)
        if self.scale != 1.0:
            logits = torch.mul(logits, self.scale, out=out)
        if self.softcap is not None:
            tanh = torch.tanh(torch.div(logits, self.softcap, out=out), out=out)
            logits = torch.mul(tanh, self.softcap, out=out)
        return logits

    def pull_back(
        self, gradient: Float[Tensor, "tokens vocab"], logits: Float[Tensor, "tokens vocab"]
    ) -> Float[Tensor, "tokens dim"]:
        """Gradient with respect to the hidden states from that with respect to the logits.

        Args:
            gradient: overwritten.
            logits: overwritten.
        """
        if self.softcap is not None:
            capped = logits.to(gradient.dtype).div_(self.softcap)
            gradient *= capped.square_().neg_().add_(1)
        if self.scale != 1.0:
            gradient *= self.scale
        if gradient.dtype != self.weight.dtype:
            gradient = logits.copy_(gradient)
        return gradient @ self.weight


def log_softmax_(
    logits: Float[Tensor, "tokens vocab"], scratch: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, "tokens"]:
    """Turn logits into log-probabilities in place, log 0 replaced by a finite floor.

    Returns:
        The normaliser, log sum exp of the logits.
    """
    largest = logits.amax(dim=-1, keepdim=True)
    logits -= largest
    normaliser = torch.exp(logits, out=scratch).sum(dim=-1, keepdim=True).log_()
    logits.sub_(normaliser).clamp_min_(LOG_ZERO)
    return (normaliser + largest).squeeze(-1)


def jensen_shannon_with_gradient(
    log_p: Float[Tensor, "tokens vocab"],
    log_q: Float[Tensor, "tokens vocab"] | None,
    labels: Int[Tensor, "tokens"],
    scratch: tuple[Tensor, Tensor],
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens vocab"]]:
    """JS(P, Q) and p (a - sum p a) / 2, with a = log p - log m = ln 2 - softplus(log q - log p)."""
    assert log_q is not None
    difference = torch.sub(log_q, log_p, out=scratch[0])
    softplus = torch.logaddexp(difference, difference.new_zeros(()), out=scratch[1])
    a = softplus.neg_().add_(LN_2)
    p, q = log_p.exp_(), log_q.exp_()
    from_q = difference.add_(a).mul_(q).sum(dim=-1)  # log q - log m = a + difference
    from_p = torch.mul(p, a, out=difference).sum(dim=-1)
    value = (0.5 * (from_p + from_q)).clamp_(0.0, LN_2)
    return value, a.sub_(from_p.unsqueeze(-1)).mul_(p).mul_(0.5)


def kl_teacher_student_with_gradient(
    log_p: Float[Tensor, "tokens vocab"],
    log_q: Float[Tensor, "tokens vocab"] | None,
    labels: Int[Tensor, "tokens"],
    scratch: tuple[Tensor, Tensor],
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens vocab"]]:
    """KL(Q || P) and p - q."""
    assert log_q is not None
    difference = torch.sub(log_q, log_p, out=scratch[0])
    q = log_q.exp_()
    return difference.mul_(q).sum(dim=-1), log_p.exp_().sub_(q)


def kl_student_teacher_with_gradient(
    log_p: Float[Tensor, "tokens vocab"],
    log_q: Float[Tensor, "tokens vocab"] | None,
    labels: Int[Tensor, "tokens"],
    scratch: tuple[Tensor, Tensor],
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens vocab"]]:
    """KL(P || Q) and p (r - sum p r), with r = log p - log q."""
    assert log_q is not None
    ratio = torch.sub(log_p, log_q, out=scratch[0])
    p = log_p.exp_()
    value = torch.mul(p, ratio, out=log_q).sum(dim=-1)
    return value, ratio.sub_(value.unsqueeze(-1)).mul_(p)


def cross_entropy_with_gradient(
    log_p: Float[Tensor, "tokens vocab"],
    log_q: Float[Tensor, "tokens vocab"] | None,
    labels: Int[Tensor, "tokens"],
    scratch: tuple[Tensor, Tensor],
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens vocab"]]:
    """-log p[label] and p - onehot."""
    index = labels.unsqueeze(-1)
    value = -log_p.gather(-1, index).squeeze(-1)
    gradient = log_p.exp_()
    gradient.scatter_add_(-1, index, torch.full_like(gradient[:, :1], -1.0))
    return value, gradient


class ProjectedLoss:
    """One loss per token, from final hidden states.

    Args:
        projection: the model's head.
        token_loss: one of the `..._with_gradient` functions of this module.
        chunk: tokens projected at a time; the buffers take about 5 x chunk x vocab floats.
    """

    def __init__(self, projection: Projection, token_loss: TokenLoss, chunk: int) -> None:
        self.projection = projection
        self.token_loss = token_loss
        self.chunk = chunk
        weight = projection.weight
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        shape = chunk, weight.shape[0]
        self.buffers = [torch.empty(shape, dtype=wide, device=weight.device) for _ in range(4)]
        # Where the logits are still needed once they are log-probabilities, or are less precise.
        self.raw = self.buffers[0]
        if weight.dtype != wide or projection.softcap is not None:
            self.raw = torch.empty(shape, dtype=weight.dtype, device=weight.device)

    def __call__(
        self,
        hidden: Float[Tensor, "tokens dim"],
        teacher: Teacher | None,
        labels: Int[Tensor, "tokens"],
    ) -> Float[Tensor, "tokens"]:
        """The losses, with their graph to the hidden states.

        Args:
            hidden: the student's states after the final norm.
            teacher: gives the teacher's log-probabilities of the same tokens; None where the loss
                needs none.
            labels: target ids, for the losses that use them.
        """
        result = _ProjectedLoss.apply(hidden, teacher, labels, self)
        assert isinstance(result, Tensor)
        return result

    def of_chunk(
        self, hidden: Tensor, part: slice, teacher: Teacher | None, labels: Tensor, backward: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The losses of some tokens, and their gradients with respect to the hidden states."""
        count = part.stop - part.start
        log_p, log_q, *scratch = (buffer[:count] for buffer in self.buffers)
        logits = self.projection.logits(hidden[part], out=self.raw[:count])
        if self.raw is not self.buffers[0]:
            log_p.copy_(logits)
        log_softmax_(log_p, scratch[0])
        if teacher is not None:
            teacher(part, log_q, scratch[0])
        value, gradient = self.token_loss(
            log_p, None if teacher is None else log_q, labels[part], (scratch[0], scratch[1])
        )
        return value, self.projection.pull_back(gradient, logits) if backward else None


class _ProjectedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, teacher: Teacher | None, labels: Tensor, loss: ProjectedLoss
    ) -> Tensor:
        values, gradients = [], []
        for start in range(0, len(hidden), loss.chunk):
            part = slice(start, min(start + loss.chunk, len(hidden)))
            value, gradient = loss.of_chunk(hidden, part, teacher, labels, hidden.requires_grad)
            values.append(value)
            if gradient is not None:
                gradients.append(gradient)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor, None, None, None]:
        (per_token,) = ctx.saved_tensors
        gradient = per_token.to(grad_values.dtype) * grad_values.unsqueeze(-1)
        return gradient.to(per_token.dtype), None, None, None


def projected_teacher(hidden: Float[Tensor, "tokens dim"], projection: Projection) -> Teacher:
    """A teacher from its final hidden states, projected when asked for."""

    def write(part: slice, out: Tensor, scratch: Tensor) -> None:
        if projection.weight.dtype == out.dtype:
            projection.logits(hidden[part], out=out)
        else:
            out.copy_(projection.logits(hidden[part]))
        log_softmax_(out, scratch)

    return write
