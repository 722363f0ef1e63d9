"""Sampling whose noise follows from a row's seed, the step, and the token alone.

A token is drawn in two steps, first a run of 256 successive tokens of the vocabulary, then one
token of the run. Both are the argmax of weight / E with E exponential, an exact sample of the
weights (the Gumbel-max trick, Gumbel = -log E). So a step needs some thousand numbers of noise for
a vocabulary of 256,000, and rows with a seed in common also have their noise in common: where their
distributions are close, they mostly draw the same token.

The noise is a counter-based hash, SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) of the row's
seed, the step and a number of the draw: no generator has a state that another row could shift, and
every device computes the same integers.
"""

import hashlib
import json
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from concept_das.errors import InputError

_RUN = 256  # tokens; another number would change every sampled text

# A token with 2^-110 of the largest weight never wins a draw, and with it no infinities are needed.
_NEVER = -110.0

# SplitMix64's constants, as the signed numbers that torch takes.
_GOLDEN, _FIRST, _SECOND = (
    number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Refuse settings that mean nothing.

    Raises:
        InputError: if the temperature is negative, `top_k` below 1, or `top_p` not in (0, 1].
    """
    if not temperature >= 0:
        raise InputError(f"temperature is {temperature}; give 0 for greedy decoding, or more")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k is {top_k}; give 1 or more, or leave it out for all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}; give a share above 0 and up to 1")


def row_seed(seed: int, key: int | str) -> int:
    """The seed of one row, a signed number of 64 bits."""
    digest = hashlib.sha256(json.dumps([seed, key]).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class RowSampler(LogitsProcessor):
    """Makes greedy decoding sample; one object for one call of `generate`.

    Args:
        temperature: above 0.
        seeds: one per row of the batch.
        top_k: only this many of the likeliest tokens, and those as likely as the last of them.
        top_p: of these only the likeliest that together have this share of the probability.
    """

    def __init__(
        self,
        temperature: float,
        seeds: Sequence[int],
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> None:
        # Weights are powers of two, which torch computes much faster than those of e. In float32 a
        # temperature near 0 would divide by nothing.
        self.divisor = max(temperature, 1e-6) * math.log(2)
        self.top_k = top_k
        self.top_p = top_p
        self.seeds = torch.tensor(seeds, dtype=torch.int64)
        self.step = 0
        self._memory: Tensor | None = None

    @torch.no_grad()
    def __call__(
        self, input_ids: Tensor, scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """The same scores, changed in place: infinite in each row at one token, its sample."""
        self.seeds = self.seeds.to(scores.device)
        # Every row draws at every step, also when it has ended.
        streams = _mixed(self.seeds + _wrapped(_GOLDEN * self.step))
        self.step += 1
        # On a CPU memory takes longer than arithmetic: a megabyte at once stays in its cache.
        rows, vocabulary = scores.shape
        at_once = max(1, 2**18 // vocabulary) if scores.device.type == "cpu" else rows
        if self._memory is None:
            runs = -(-vocabulary // _RUN)
            self._memory = torch.empty(min(at_once, rows), runs, _RUN, device=scores.device)
        parts = zip(scores.split(at_once), streams.split(at_once), strict=True)
        chosen = torch.cat([self._sample(*part) for part in parts])
        return scores.scatter_(1, chosen.unsqueeze(1), torch.inf)

    def _sample(
        self, scores: Float[Tensor, "rows vocab"], streams: Int[Tensor, "rows"]
    ) -> Int[Tensor, "rows"]:
        assert self._memory is not None
        runs = self._memory[: len(scores)]
        whole, vocabulary = runs.flatten(1), scores.shape[1]
        whole[:, vocabulary:] = -torch.inf
        scores = scores.float()
        relative = torch.sub(scores, scores.amax(-1, keepdim=True), out=whole[:, :vocabulary])
        relative.div_(self.divisor)
        if self.top_k is not None or self.top_p is not None:
            floor = _floor(runs, self.top_k, self.top_p).clamp(min=_NEVER)
            torch.threshold_(whole.sub_(floor), -1e-38, -torch.inf).add_(floor)
        whole.clamp_(min=_NEVER).exp2_()
        return _draw(runs, streams)


def _floor(
    logits: Float[Tensor, "rows runs run"], top_k: int | None, top_p: float | None
) -> Float[Tensor, "rows 1"]:
    """The smallest logit to base 2 that is kept; the largest of a row is 0."""
    if top_k is not None:
        largest = _largest(logits, top_k)
        return largest[:, -1:] if top_p is None else _nucleus(largest, None, top_p)[0]
    assert top_p is not None
    total = logits.exp2().sum(dim=(1, 2)).unsqueeze(1)
    # To sort a large vocabulary takes longer than a step, and a few tokens nearly always suffice.
    for count in (1024, logits[0].numel()):
        floor, found = _nucleus(_largest(logits, count), total, top_p)
        if found:
            break
    return floor


def _largest(logits: Float[Tensor, "rows runs run"], count: int) -> Float[Tensor, "rows count"]:
    """The largest logits in falling order."""
    if 2 * count < logits.shape[1]:  # they are in the runs with the largest maxima
        runs = logits.amax(dim=-1).topk(count).indices
        logits = logits[torch.arange(len(runs), device=runs.device).unsqueeze(1), runs]
    flat = logits.flatten(1)
    return flat.topk(min(count, flat.shape[1])).values


def _nucleus(
    largest: Float[Tensor, "rows count"], total: Float[Tensor, "rows 1"] | None, top_p: float
) -> tuple[Float[Tensor, "rows 1"], bool]:
    """The smallest logit that is needed for a share of the probability, and whether it suffices.

    Args:
        largest: logits to base 2, in falling order.
        total: sum of all weights; that of these if None.
    """
    weights = largest.exp2()
    before = weights.cumsum(dim=-1) - weights
    needed = before < top_p * (weights.sum(dim=-1, keepdim=True) if total is None else total)
    floor = largest.where(needed, 0.0).amin(dim=-1, keepdim=True)
    return floor, not bool(needed[:, -1].any())


def _draw(
    weights: Float[Tensor, "rows runs run"], streams: Int[Tensor, "rows"]
) -> Int[Tensor, "rows"]:
    """One token of each row, by its weights."""
    rows, runs, _ = weights.shape
    noise = exponential_noise(streams, _RUN + runs)
    run = (weights.sum(dim=-1) / noise[:, _RUN:]).argmax(dim=-1)
    inside = weights[torch.arange(rows, device=run.device), run]
    return run * _RUN + (inside / noise[:, :_RUN]).argmax(dim=-1)


def exponential_noise(streams: Int[Tensor, "rows"], count: int) -> Float[Tensor, "rows count"]:
    """Independent numbers with mean 1, in float32; the n-th of a stream is always the same.

    Small numbers decide a draw, so these are the fine ones: the smallest is 2^-33.
    """
    numbers = torch.arange(1, count + 1, device=streams.device)
    bits = _shifted(_mixed(streams.unsqueeze(1) + numbers * _GOLDEN), 32)
    # Rounding to 1 would make an infinite number.
    uniform = ((bits.float() + 0.5) * 2.0**-32).clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_()


def _mixed(state: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """SplitMix64's output for a state: every bit depends on all bits. Products wrap around."""
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Shifted to the right, with zeros from the left."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _wrapped(number: int) -> int:
    """A whole number in 64 bits with a sign."""
    return (number + 2**63) % 2**64 - 2**63
