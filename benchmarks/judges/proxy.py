"""The proxy: a judge that needs no other model than the one whose responses it rates.

It has one rule for each of the three ratings, in this order below:

- concept: a classifier of characters, trained on texts with and without the concept;
- relatedness: the response's likelihood under its own instruction, ranked among other instructions;
- fluency: the response's perplexity and repetition, beside those of unsteered responses.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from transformers import PreTrainedModel

from benchmarks.judges.ratings import EMPTY_RESPONSE, Item, Rating
from concept_das.data.chat_format import ChatFormat
from concept_das.errors import InputError
from concept_das.evaluation.fluency import distinct_pairs, log_likelihoods
from concept_das.experiments.making import is_repetitive
from concept_das.models.loading import LoadedModel

# A text shows the concept if it scores above this share of the texts without it.
_NEGATIVES_BELOW = 0.95
# Of the cross-validation.
_FOLDS = 5
_SEED = 42
# Fewer unsteered responses than this are not enough to take quantiles of.
_FEWEST = 8
NEUTRAL_INSTRUCTION = "Write a text."
"""Fluency is read under this instruction for every response, so that its topic does not count."""


@dataclass(frozen=True)
class ConceptProbe:
    """A trained classifier of one concept, and its quality on texts it has not seen.

    Attributes:
        auroc: area under the ROC curve on held-out texts, mean over the folds.
        some: a score above this is rated 1: the 95% quantile of held-out texts without the concept.
        clear: a score of at least this is rated 2: the median of held-out texts with the concept,
            or `some` if that is higher.
        texts: number of texts it was trained on.
    """

    auroc: float
    some: float
    clear: float
    texts: int
    _pipeline: Any = field(repr=False, compare=False)

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Log-odds of the concept, by the classifier."""
        return self._pipeline.decision_function(list(texts)).tolist() if len(texts) else []

    def rate(self, texts: Sequence[str]) -> list[int]:
        """0, 1 or 2 for each text."""
        return [
            0 if score <= self.some else 1 + int(score >= self.clear)
            for score in self.scores(texts)
        ]


def fit_probe(positive: Sequence[str], negative: Sequence[str]) -> ConceptProbe:
    """Train a logistic regression on tf-idf of 2 to 5 characters within words, case and all.

    Args:
        positive: texts with the concept.
        negative: texts without it, of the same kind otherwise.

    AUROC and thresholds are of a stratified cross-validation.

    Raises:
        InputError: if a class has fewer different texts than there are folds.
    """
    classes = {"with": _different(positive), "without": _different(negative)}
    for name, texts in classes.items():
        if len(texts) < _FOLDS:
            raise InputError(
                f"there are {len(texts)} different texts {name} the concept; a probe with {_FOLDS} "
                "folds needs as many"
            )
    both = np.array([*classes["with"], *classes["without"]], dtype=object)
    labels = np.repeat([1, 0], [len(classes["with"]), len(classes["without"])])
    heldout = np.empty(len(both))
    aurocs = []
    splitter = StratifiedKFold(_FOLDS, shuffle=True, random_state=_SEED)
    for train, test in splitter.split(both, labels):
        pipeline = _classifier().fit(both[train], labels[train])
        heldout[test] = pipeline.decision_function(both[test])
        aurocs.append(roc_auc_score(labels[test], heldout[test]))
    some = float(np.quantile(heldout[labels == 0], _NEGATIVES_BELOW))
    return ConceptProbe(
        auroc=float(np.mean(aurocs)),
        some=some,
        clear=max(some, float(np.median(heldout[labels == 1]))),
        texts=len(both),
        _pipeline=_classifier().fit(both, labels),
    )


def _classifier() -> Any:
    return make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), lowercase=False, sublinear_tf=True),
        LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000),
    )


def _different(texts: Sequence[str]) -> list[str]:
    """The texts without empty ones, and without copies, which could be in both parts of a fold."""
    return list(dict.fromkeys(text for text in texts if text.strip()))


@dataclass(frozen=True)
class Relatedness:
    """Ranks a response's own instruction among others, by the likelihood of the response.

    The rating is 2 if the response is likelier under its own instruction than under all of the
    others; 1 if a fifth of them do as well or better, or one of fewer than ten; 0 otherwise. A
    response that has nothing to do with its instruction gets a 2 once in `others + 1` times.

    Attributes:
        pool: instructions that the others are drawn from.
        others: number of other instructions; the same instruction always gets the same ones.
        max_tokens: number of tokens of a response that are read.
    """

    pool: tuple[str, ...]
    others: int = 7
    max_tokens: int = 48

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
        return random.Random(f"{_SEED} {instruction}").sample(candidates, self.others)

    def rate(
        self, model: PreTrainedModel, chat: ChatFormat, pairs: Sequence[tuple[str, str]]
    ) -> list[int]:
        """0, 1 or 2 for each instruction and response."""
        questions = [
            (candidate, response)
            for instruction, response in pairs
            for candidate in (instruction, *self.compared(instruction))
        ]
        values = np.array(log_likelihoods(model, chat, questions, max_tokens=self.max_tokens))
        values = values.reshape(len(pairs), self.others + 1)
        return [self.rating(int((row[1:] >= row[0]).sum())) for row in values]

    def rating(self, better: int) -> int:
        """0, 1 or 2 by the number of other instructions that do as well or better."""
        if better == 0:
            return 2
        return int(better <= max(1, self.others // 5))


@dataclass(frozen=True)
class Fluency:
    """Rates a text by its perplexity and its repetition, against unsteered responses.

    The rating is the lower of two. By mean negative log-likelihood per token: 2 up to `usual`, the
    95% quantile of unsteered responses; 1 up to `limit`, which is as far above `usual` as `usual`
    is above the median; else 0. By the share of different pairs among neighbouring tokens: 2 from
    `varied` on, the 5% quantile of unsteered responses; 1 from half of it on; else 0, as where
    words run in a loop.
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
    ) -> "Fluency":
        """Thresholds from the unsteered model's own responses.

        Args:
            unsteered: responses of the same length and sampling as those to be rated.
            max_tokens: number of tokens of a response that are read.

        Raises:
            InputError: if fewer than 8 of them have text.
        """
        texts = [text for text in unsteered if text.strip()]
        if len(texts) < _FEWEST:
            raise InputError(
                f"{len(texts)} unsteered responses have text; fluency needs at least {_FEWEST}"
            )
        losses = _losses(model, chat, texts, max_tokens)
        median, usual = np.quantile(losses, [0.5, 0.95])
        shares = [distinct_pairs(chat.text_ids(text.strip())[:max_tokens]) for text in texts]
        return cls(
            usual=float(usual),
            limit=float(usual + (usual - median)),
            varied=float(np.quantile(shares, 0.05)),
            max_tokens=max_tokens,
        )

    def rate(self, model: PreTrainedModel, chat: ChatFormat, texts: Sequence[str]) -> list[int]:
        """0, 1 or 2 for each text."""
        losses = _losses(model, chat, texts, self.max_tokens)
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
    model: PreTrainedModel, chat: ChatFormat, texts: Sequence[str], max_tokens: int
) -> list[float]:
    pairs = [(NEUTRAL_INSTRUCTION, text) for text in texts]
    values = log_likelihoods(model, chat, pairs, max_tokens=max_tokens)
    return [-value for value in values]


@dataclass(frozen=True)
class ProxyJudge:
    """Rates responses on one concept by its probe and by the unsteered model's likelihoods.

    The three rules, with their thresholds, are in `ConceptProbe`, `Relatedness` and `Fluency`. A
    response without text is rated 0 by rule.

    Attributes:
        loaded: the model whose steered responses are rated; not inside a `steer` block.
        concept: the only one that it knows.
        probe: of the concept.
        relatedness: ranks an instruction among others.
        fluency: calibrated on this model's unsteered responses.
    """

    loaded: LoadedModel
    concept: str
    probe: ConceptProbe
    relatedness: Relatedness
    fluency: Fluency

    kind: Literal["proxy"] = field(default="proxy", init=False)

    @property
    def name(self) -> str:
        """For tables."""
        return f"proxy by {self.loaded.name}"

    def rate(self, items: Sequence[Item]) -> list[Rating]:
        """One rating per item, in order. An item's rating does not depend on the others.

        Raises:
            InputError: if an item is of another concept.
        """
        others = {item.concept for item in items} - {self.concept}
        if others:
            raise InputError(f"there is no probe for the concept {min(others)!r}; fit one")
        # Equal items are rated once.
        asked = list(dict.fromkeys(item for item in items if item.response.strip()))
        model, chat = self.loaded.model, ChatFormat.of(self.loaded.tokenizer)
        pairs = [(item.instruction, item.response) for item in asked]
        texts = [item.response for item in asked]
        related = self.relatedness.rate(model, chat, pairs)
        fluent = self.fluency.rate(model, chat, texts)
        shown = self.probe.rate(texts)
        ratings = dict(zip(asked, map(Rating, shown, related, fluent), strict=True))
        return [ratings.get(item, EMPTY_RESPONSE) for item in items]

    def description(self) -> dict[str, Any]:
        """AUROC and thresholds of the rules, to be kept beside the ratings."""
        return {
            "judge_kind": self.kind,
            "judge": self.name,
            "probe_auroc": {self.concept: self.probe.auroc},
            "probe_thresholds": {self.concept: (self.probe.some, self.probe.clear)},
            "probe_texts": {self.concept: self.probe.texts},
            "other_instructions": self.relatedness.others,
            "relatedness_tokens": self.relatedness.max_tokens,
            "fluency_usual": self.fluency.usual,
            "fluency_limit": self.fluency.limit,
            "fluency_varied": self.fluency.varied,
            "fluency_tokens": self.fluency.max_tokens,
        }
