"""Divergences in plain Python, written from their definitions: float64, from probabilities."""

import math
from collections.abc import Sequence


def softmax(logits: Sequence[float]) -> list[float]:
    """Probabilities; `-inf` is an impossible token."""
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    """KL(p || q) in nats; infinite where q has no mass and p has."""
    terms = []
    for a, b in zip(p, q, strict=True):
        if a > 0.0:
            terms.append(a * math.log(a / b) if b > 0.0 else math.inf)
    return math.fsum(terms)


def jensen_shannon(p: Sequence[float], q: Sequence[float]) -> float:
    """KL(p || m) / 2 + KL(q || m) / 2 with the mixture m formed explicitly."""
    mixture = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return kl(p, mixture) / 2 + kl(q, mixture) / 2
