"""Measures of answers (rates) and of predictions (KL divergences in nats), by multiplier.

A divergence compares a steered model's predictions with those it should have.

Both models read the same response, each after a prompt of its own:

    D_k = KL( p(. | reference prompt, y_<k) || p_steered(. | steered prompt, y_<k) )

- `first` is D_1, read at the prompts' last tokens. The paper's KL fidelity of refusal is its mean
  over test pairs, with a harmless instruction as the reference and a harmful one steered; the two
  have nothing else in common, so that it says whether the model sets out to answer, not to what.
- `response` is the mean of D_k over the response. It needs prompts that ask for the same, or else
  nobody knows what the second token should be: a triggered instruction against the clean one with
  the clean answer, or, as a side effect, an instruction against itself with its own answer.

The untouched model stands first in the divergence, as in the paper: what it may say and the steered
model cannot costs most. The whole steered run is steered, template prefix excepted, the response
included, as in generation.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch

from benchmarks.safety.case import Case, DivergenceOf, Likely, RateOf
from benchmarks.safety.data import PromptSets
from benchmarks.steps import Subject
from concept_das.data.batches import batches
from concept_das.data.chat_format import Prompt, Turn
from concept_das.errors import InputError
from concept_das.evaluation.by_strength import SteeredLogits, WholeModelLogits, steered_logits
from concept_das.evaluation.intervals import mean_with_interval, rate_of
from concept_das.runs.rows import RowLog
from concept_das.steering.artifact import Artifact
from concept_das.steering.context import Steering
from concept_das.steering.vector import SteeringVector
from concept_das.words import Direction, Rule
from objectives import kl_teacher_student

# The untouched model has no strength.
NO_MULTIPLIER = float("nan")

# Pairs of a forward pass.
_BATCH = 4

# No divergence is below 0, and so is no bound of an interval.
_KL = (0.0, float("inf"))

# (prompt, beginning of an answer, its end) of each -> surprise at the end, mean nats per token
Surprises = Callable[[Sequence[tuple[str, str, str]]], Sequence[float]]


def measure_answers(
    case: Case,
    untouched: pd.DataFrame,
    answers: pd.DataFrame | None,
    multipliers: Sequence[float],
    sets: PromptSets | None = None,
    surprises: Surprises | None = None,
) -> pd.DataFrame:
    """The case's rates, one row per multiplier.

    Args:
        untouched: answers without steering: prompts, number, text; verdict, if a rate has one.
        answers: the same with direction and multiplier; None to count the untouched ones.
        sets: prompts by set.
        surprises: the untouched model's, for rates that count only what it finds likely.

    Returns:
        The columns multiplier and, for each rate, `NAME`, `NAME_count`, `NAME_total`, `NAME_low`
        and `NAME_high`. Rates of a direction without answers, or of answers without a verdict, are
        left out.
    """
    plain = _by_set(untouched, "text")
    records: list[dict[str, Any]] = []
    for multiplier in multipliers or (NO_MULTIPLIER,):
        record: dict[str, Any] = {"multiplier": multiplier}
        for one in case.rates:
            here = untouched
            if answers is not None:
                here = answers[
                    (answers["direction"] == one.direction) & (answers["multiplier"] == multiplier)
                ]
            if one.prompts in set(here["prompts"]):
                counted = _counted(one, here, plain[one.prompts])
                if one.likely and sets is not None and surprises is not None:
                    prompts = sets[one.likely.prompts]
                    counted = _likely(one.likely, counted, here, one.prompts, prompts, surprises)
                if counted:
                    found = rate_of(counted)
                    record[one.name] = found.value
                    record |= {f"{one.name}_{part}": v for part, v in asdict(found).items()}
        records.append(record)
    return pd.DataFrame(records)


def _counted(one: RateOf, answers: pd.DataFrame, before: Sequence[str]) -> list[bool]:
    if one.verdict is not None:
        verdicts = _by_set(answers, "verdict")[one.prompts]
        return [verdict == one.verdict for verdict in verdicts if verdict is not None]
    after, asked = (_by_set(answers, name)[one.prompts] for name in ("text", "prompt"))
    return [one.counts(*texts) for texts in zip(after, before, asked, strict=True)]


def _likely(
    floor: Likely,
    counted: Sequence[bool],
    answers: pd.DataFrame,
    name: str,
    prompts: Sequence[str],
    surprises: Surprises,
) -> list[bool]:
    """Of the counted answers to a set, those whose end the untouched model finds likely."""
    texts, numbers = _by_set(answers, "text")[name], _by_set(answers, "number")[name]
    places = [place for place, yes in enumerate(counted) if yes]
    asked = []
    for place in places:
        end = floor.part(texts[place])
        text = texts[place].rstrip()
        asked.append((prompts[numbers[place]], text[: len(text) - len(end)], end))
    found = dict(zip(places, surprises(asked), strict=True))
    return [found.get(place, float("inf")) <= floor.nats for place in range(len(counted))]


@torch.no_grad()
def surprises_of(subject: Subject, rows: Sequence[tuple[str, str, str]]) -> list[float]:
    """The untouched model's surprise at the ends of answers, mean nats per token.

    Args:
        rows: for each prompt, beginning and end of the answer.
    """
    chat, logits = subject.chat, WholeModelLogits(subject.loaded.model)
    found: dict[tuple[str, str, str], float] = {}
    # Greedy answers to a prompt are often the same at several strengths.
    for batch in batches(list(dict.fromkeys(rows)), _BATCH):
        starts = [chat.text_ids(start) for _, start, _ in batch]
        ends = [chat.text_ids(end) for _, _, end in batch]
        turns = [
            chat.prompt(prompt).with_response((*start, *end))
            for (prompt, _, _), start, end in zip(batch, starts, ends, strict=True)
        ]
        for row, start, end, own in zip(batch, starts, ends, logits.of(turns), strict=True):
            log_p = own[len(start) :].float().log_softmax(-1).cpu()
            likely = log_p.gather(1, torch.tensor(end)[:, None])
            found[row] = -float(likely.mean())
    return [found[row] for row in rows]


def _by_set(answers: pd.DataFrame, column: str) -> dict[str, list[Any]]:
    ordered = answers.sort_values("number", kind="stable")
    return {str(name): list(own[column]) for name, own in ordered.groupby("prompts")}


@dataclass(frozen=True)
class Pair:
    """The texts that two models read.

    Attributes:
        reference: prompt of the untouched model.
        steered: prompt of the steered one.
        response: what both read after it; empty if only the prompts' ends are compared.
    """

    reference: Prompt
    steered: Prompt
    response: tuple[int, ...] = ()

    @property
    def turns(self) -> tuple[Turn, Turn]:
        """The untouched model's text and the steered one's."""
        # Logits at the prompt's end depend on no response, but are asked for as those of one.
        response = self.response or self.reference.ids[-1:]
        return self.reference.with_response(response), self.steered.with_response(response)


@torch.no_grad()
def divergences(
    logits: SteeredLogits, pairs: Sequence[Pair], steerings: Sequence[Steering | None]
) -> Iterator[list[dict[str, float]]]:
    """KL(untouched || steered) of each pair in nats, one list per steering.

    Args:
        logits: of the model; see `concept_das.evaluation.by_strength.steered_logits`.
        steerings: None for the untouched model.

    Returns:
        `first`, at the prompts' last tokens, and `response`, the mean over the response's tokens,
        NaN without one.
    """
    turns = [pair.turns for pair in pairs]
    teachers = logits.of([reference for reference, _ in turns])
    for steering in steerings:
        students = logits.of([steered for _, steered in turns], steering)
        found = []
        for pair, student, teacher in zip(pairs, students, teachers, strict=True):
            each = kl_teacher_student(student, teacher)
            mean = float(each.mean()) if pair.response else float("nan")
            found.append({"first": float(each[0]), "response": mean})
        yield found


def steering_of(vector: Artifact, direction: Direction, multiplier: float, rule: Rule) -> Steering:
    """A vector at a strength.

    Args:
        rule: of a vector that clamps; what is added has no two means to go between.
    """
    clamps = isinstance(vector, SteeringVector) and vector.operation == "clamp"
    return Steering(vector, direction, multiplier, rule if clamps else "paper")


def pairs_of(
    one: DivergenceOf, subject: Subject, sets: PromptSets, plain: Mapping[str, Sequence[str]]
) -> list[Pair]:
    """The pairs of a divergence, by the prompts' numbers.

    Args:
        plain: the untouched model's answers by set; read as text, so that a token that ended them
            is no part of them.

    Raises:
        InputError: if the two sets are not of the same size.
    """
    steered, reference = sets[one.prompts], sets[one.reference]
    if len(steered) != len(reference):
        raise InputError(
            f"there are {len(steered)} {one.prompts} prompts and {len(reference)} {one.reference} "
            "ones; they are compared pair by pair, so give as many of either"
        )
    chat = subject.chat
    return [
        Pair(
            chat.prompt(reference[i]),
            chat.prompt(steered[i]),
            chat.text_ids(plain[one.reference][i]) if one.over_response else (),
        )
        for i in range(len(steered))
    ]


def measure_divergences(
    rows: RowLog,
    case: Case,
    subject: Subject,
    sets: PromptSets,
    untouched: pd.DataFrame,
    vector: Artifact | None,
    multipliers: Sequence[float],
    rule: Rule = "paper",
) -> pd.DataFrame:
    """The case's divergences, one row per multiplier.

    Args:
        rows: log of finished pairs; closed afterwards.
        untouched: answers without steering, which are the responses that are read.
        vector: None for the untouched model.
        rule: see `steering_of`.

    Returns:
        The columns multiplier and, for each divergence, `NAME`, `NAME_low` and `NAME_high`: mean
        over pairs at the prompts' last tokens with Student's 95% interval; where asked for, the
        same over responses as `NAME_response`. Directions the vector cannot steer in are left out.
    """
    plain = _by_set(untouched, "text")
    records: list[dict[str, Any]] = [{"multiplier": m} for m in multipliers or (NO_MULTIPLIER,)]
    with rows as log:
        for one in case.divergences:
            if vector is not None and one.direction not in vector.directions:
                continue
            pairs = pairs_of(one, subject, sets, plain)
            steerings: list[Steering | None] = [None]
            if vector is not None:
                steerings = [steering_of(vector, one.direction, m, rule) for m in multipliers]
            _log_pairs(log, one.name, subject, pairs, vector, steerings)
            for place, record in enumerate(records):
                found = log.frame([_key(one.name, place, number) for number in range(len(pairs))])
                record.update(mean_with_interval(one.name, found["first"], within=_KL))
                if one.over_response:
                    name = f"{one.name}_response"
                    record.update(mean_with_interval(name, found["response"], within=_KL))
    return pd.DataFrame(records)


def _log_pairs(
    log: RowLog,
    name: str,
    subject: Subject,
    pairs: Sequence[Pair],
    vector: Artifact | None,
    steerings: Sequence[Steering | None],
) -> None:
    """Measure the pairs that are not in the log yet, whole batches of them."""
    numbers, places = range(len(pairs)), range(len(steerings))
    missing = set(log.missing([_key(name, place, n) for place in places for n in numbers]))
    if not missing:
        return
    logits: SteeredLogits = WholeModelLogits(subject.loaded.model)
    if vector is not None:
        turns = [turn for pair in pairs for turn in pair.turns]
        logits = steered_logits(subject.loaded.model, vector, turns)
    for batch in batches(numbers, _BATCH):
        keys = [[_key(name, place, number) for number in batch] for place in places]
        if missing.isdisjoint(itertools.chain(*keys)):
            continue
        found = divergences(logits, [pairs[number] for number in batch], steerings)
        for key, values in zip(itertools.chain(*keys), itertools.chain(*found), strict=True):
            if key in missing:
                log.append(key, values)


def _key(name: str, place: int, number: int) -> str:
    return f"{name}/{place}/{number}"
