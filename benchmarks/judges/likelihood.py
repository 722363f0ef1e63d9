"""What the unsteered model thinks of a response: the proxy's second and third ratings."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from concept_das.data.chat_format import ChatFormat
from concept_das.errors import InputError
from concept_das.evaluation.fluency import distinct_pairs, log_likelihoods
from concept_das.experiments.making import is_repetitive

NEUTRAL_INSTRUCTION = "Write a text."
"""What every response is read under for its fluency: what it is about then counts for none."""

_FEWEST = 8
"""Unsteered responses to take quantiles of."""


@dataclass(frozen=True)
class Relatedness:
    """Ranks a response's own instruction among others, by the likelihood of the response.

    2 if the response is likelier under its own instruction than under all of the others; 1 if it
    is under all but a fifth of them, or all but one of fewer than ten; 0 otherwise. Of responses
    that have nothing to do with their instruction, 1 in `others + 1` gets a 2.

    Attributes:
        pool: instructions that the others are drawn from.
        others: how many; drawn anew for each instruction, but always the same for the same one.
        max_tokens: how much of a response is read.
    """

    pool: tuple[str, ...]
    others: int = 7
    max_tokens: int = 48
    seed: int = 42

    def __post_init__(self) -> None:
        if self.others < 2:
            raise InputError(f"relatedness needs at least 2 other instructions, not {self.others}")
        if len(set(self.pool)) <= self.others:
            raise InputError(
                f"relatedness to one instruction against {self.others} others needs more than "
                f"{self.others} different instructions; {len(set(self.pool))} are given"
            )

    def compared(self, instruction: str) -> list[str]:
        """The other instructions that this one is ranked among."""
        candidates = sorted(set(self.pool) - {instruction})
        return random.Random(f"{self.seed} {instruction}").sample(candidates, self.others)

    def rate(
        self,
        model: PreTrainedModel,
        chat: ChatFormat,
        pairs: Sequence[tuple[str, str]],
        *,
        batch_size: int = 16,
    ) -> list[int]:
        """0, 1 or 2 for each instruction and response."""
        questions = [
            (candidate, response)
            for instruction, response in pairs
            for candidate in (instruction, *self.compared(instruction))
        ]
        values = np.array(
            log_likelihoods(
                model, chat, questions, max_tokens=self.max_tokens, batch_size=batch_size
            )
        ).reshape(len(pairs), self.others + 1)
        return [self.rating(int((row[1:] >= row[0]).sum())) for row in values]

    def rating(self, better: int) -> int:
        """0, 1 or 2 by the number of other instructions that do as well or better."""
        if better == 0:
            return 2
        return int(better <= max(1, self.others // 5))


@dataclass(frozen=True)
class Fluency:
    """Rates a text by its perplexity and its repetition, against unsteered responses.

    By perplexity, as mean negative log-likelihood per token: 2 up to `usual`, the 95% quantile of
    unsteered responses; 1 up to `limit`, as far above that again as it is above their median; 0
    beyond. By repetition, as the share of different ones among the pairs of neighbouring tokens:
    at most 1 below `varied`, the 5% quantile of unsteered responses; 0 below half of it, or where
    words run in a loop. The lower of the two counts.
    """

    usual: float
    limit: float
    varied: float
    max_tokens: int

    @classmethod
    def calibrated(
        cls,
        model: PreTrainedModel,
        chat: ChatFormat,
        unsteered: Sequence[str],
        *,
        max_tokens: int = 128,
        batch_size: int = 16,
    ) -> "Fluency":
        """Thresholds from the unsteered model's own responses.

        Args:
            unsteered: as long, and sampled in the same way, as those to be rated.
            max_tokens: how much of a response is read.

        Raises:
            InputError: if fewer than 8 of them have text.
        """
        texts = [text for text in unsteered if text.strip()]
        if len(texts) < _FEWEST:
            raise InputError(
                f"{len(texts)} unsteered responses have text; fluency needs at least {_FEWEST}"
            )
        losses = _losses(model, chat, texts, max_tokens, batch_size)
        median, usual = np.quantile(losses, [0.5, 0.95])
        shares = [distinct_pairs(chat.text_ids(text.strip())[:max_tokens]) for text in texts]
        return cls(
            usual=float(usual),
            limit=float(usual + (usual - median)),
            varied=float(np.quantile(shares, 0.05)),
            max_tokens=max_tokens,
        )

    def rate(
        self,
        model: PreTrainedModel,
        chat: ChatFormat,
        texts: Sequence[str],
        *,
        batch_size: int = 16,
    ) -> list[int]:
        """0, 1 or 2 for each text."""
        losses = _losses(model, chat, texts, self.max_tokens, batch_size)
        return [
            min(
                int(loss <= self.usual) + int(loss <= self.limit),
                self._by_repetition(text, chat.text_ids(text.strip())[: self.max_tokens]),
            )
            for text, loss in zip(texts, losses, strict=True)
        ]

    def _by_repetition(self, text: str, ids: Sequence[int]) -> int:
        share = distinct_pairs(ids)
        if is_repetitive(text):
            return 0
        return int(share >= self.varied / 2) + int(share >= self.varied)


def _losses(
    model: PreTrainedModel, chat: ChatFormat, texts: Sequence[str], max_tokens: int, size: int
) -> list[float]:
    pairs = [(NEUTRAL_INSTRUCTION, text) for text in texts]
    values = log_likelihoods(model, chat, pairs, max_tokens=max_tokens, batch_size=size)
    return [-value for value in values]
