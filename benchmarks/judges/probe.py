"""Whether a text shows a concept, by a classifier of its characters: the proxy's first rating."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline

from concept_das.errors import InputError

_NEGATIVES_BELOW = 0.95


@dataclass(frozen=True)
class ConceptProbe:
    """A trained classifier and how good it is on texts it has not seen.

    Attributes:
        auroc: mean over the folds of the held-out area under the ROC curve.
        some: score above which the rating is 1: the 95% quantile of held-out negative texts. What
            does not exceed it, looks like a text without the concept.
        clear: score from which on it is 2: the median of held-out positive texts, or `some` if
            that is higher. What reaches it, looks like the usual text with the concept.
        texts: how many it was trained on.
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


def fit_probe(
    positive: Sequence[str], negative: Sequence[str], *, folds: int = 5, seed: int = 42
) -> ConceptProbe:
    """Train a logistic regression on tf-idf of 2 to 5 characters within words, case and all.

    Args:
        positive: texts with the concept.
        negative: texts without it, of the same kind otherwise.
        folds: of the stratified cross-validation that gives the AUROC and the two thresholds.

    Raises:
        InputError: if a class has fewer different texts than there are folds.
    """
    classes = {"with": _different(positive), "without": _different(negative)}
    for name, texts in classes.items():
        if len(texts) < folds:
            raise InputError(
                f"there are {len(texts)} different texts {name} the concept; a probe with {folds} "
                "folds needs as many"
            )
    both = np.array([*classes["with"], *classes["without"]], dtype=object)
    labels = np.repeat([1, 0], [len(classes["with"]), len(classes["without"])])
    heldout = np.empty(len(both))
    aurocs = []
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
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
    """Without copies, which would be in training and test folds at once, and empty texts."""
    return list(dict.fromkeys(text for text in texts if text.strip()))
