"""Multiple choice in letters, as the paper asks it: options A, B, ... and one letter as the answer.

Each function makes of a data set's rows `query`, the text of a question with its options,
`letters`, and `answer`, the place of the right one among them.
"""

import random
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from datasets import Dataset


def truthfulqa(rows: Dataset) -> Dataset:
    """TruthfulQA's MC1; the right option is its first, so each question's are shuffled."""
    return rows.map(_truthfulqa, with_indices=True)


def _truthfulqa(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    targets = row["mc1_targets"]
    pairs = list(zip(targets["choices"], targets["labels"], strict=True))
    random.Random(number).shuffle(pairs)
    options, labels = zip(*pairs, strict=True)
    return _asked(row["question"], options, labels.index(1))


def tinymmlu(rows: Dataset) -> Dataset:
    """The 100 questions of tinyBenchmarks' tinyMMLU."""
    return rows.map(lambda row: _asked(row["question"], row["choices"], row["answer"]))


def tinyarc(rows: Dataset) -> Dataset:
    """The 100 questions of tinyBenchmarks' tinyAI2_arc."""
    return rows.map(_tinyarc)


def _tinyarc(row: Mapping[str, Any]) -> dict[str, Any]:
    choices = row["choices"]
    return _asked(row["question"], choices["text"], choices["label"].index(row["answerKey"]))


def _asked(question: str, options: Sequence[str], answer: int) -> dict[str, Any]:
    letters = list(ascii_uppercase[: len(options)])
    lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
    query = "\n".join([f"Question: {question.strip()}", "", "Options:", *lines, "", "Answer:"])
    return {"query": query, "letters": letters, "answer": answer}
