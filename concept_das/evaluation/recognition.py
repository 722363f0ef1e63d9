"""Recognise a concept in answers by the words that its own texts have and neutral ones have not."""

import re
from collections import Counter
from collections.abc import Sequence

# A word counts as the concept's if this share of its texts have it, and of the neutral ones fewer
# than a tenth of that.
_LEAST_SHARE = 0.08
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


def concept_words(concept: Sequence[str], neutral: Sequence[str], most: int = 20) -> list[str]:
    """The words that tell texts with a concept from texts without it, the commonest first.

    Args:
        concept, neutral: texts with the concept and without it, such as the outputs of training
            rows; not the answers that are to be judged.
        most: number of words at most.
    """
    here, there = _documents(concept), _documents(neutral)
    shares = {word: count / len(concept) for word, count in here.items()}
    found = [
        word
        for word, share in shares.items()
        if share >= _LEAST_SHARE and there[word] / max(1, len(neutral)) < share / 10
    ]
    return sorted(found, key=lambda word: (-shares[word], word))[:most]


def recognised(texts: Sequence[str], words: Sequence[str]) -> list[bool]:
    """True for each text that has at least one of the words, whatever its case."""
    return [not _words(text).isdisjoint(words) for text in texts]


def _documents(texts: Sequence[str]) -> Counter[str]:
    """The number of texts that have each word."""
    return Counter(word for text in texts for word in _words(text))


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
