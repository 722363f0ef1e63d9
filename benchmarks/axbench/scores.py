"""From ratings of single answers to a table of methods.

An answer's score is the harmonic mean of its three ratings, and methods are compared by the mean
over concepts (AxBench). Concepts are also the units of intervals and tests: they are the population
that a claim about a method is about, and the few answers of one concept are not independent.

A method's multiplier is one of three, by name:

- fixed: 1, which nothing was tuned for;
- fair: chosen on one half of a concept's instructions and reported on the other, both ways, so that
  every instruction is reported once. AxBench goes one way only, which depends on the split;
- oracle: chosen on the reported half itself, which no user can do. It says what choosing costs.

A table of answers has one row per generation, with the columns `method`, `concept_id`, `direction`
(elicit or suppress), `multiplier`, `input_id` (number of the instruction, from 0), and the ratings
`concept`, `instruction`, `fluency`, from 0 to 2, NaN where the judge gave none. Nothing here
depends on the order of rows.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks.judges.ratings import HIGHEST
from concept_das.errors import InputError
from concept_das.evaluation.intervals import (
    Numbers,
    harmonic_mean,
    holm,
    mean_with_interval,
    sign_flip_p,
)
from concept_das.words import DIRECTIONS

RATINGS = ("concept", "instruction", "fluency")
LABELS = ("negative", "positive")

_CASE = ["method", "concept_id", "direction"]
_ANSWER = [*_CASE, "multiplier", "input_id"]
_WAY = ["method", "direction"]

_MOST = float(HIGHEST)

# The multiplier that is chosen, and the half of the instructions that it is reported on.
Choice = Literal["fair", "oracle"]
HALVES = ("first", "second")

# Equal scores added up in another order differ by rounding; beyond this many digits they are ties.
_DIGITS = 12

log = logging.getLogger(__name__)


def halves(count: int) -> tuple[range, range]:
    """The input ids of the first half of a concept's instructions (floor) and of the second.

    Raises:
        InputError: if there are fewer than two instructions.
    """
    if count < 2:
        raise InputError(f"{count} instructions cannot be halved; take at least 2 per concept")
    return range(count // 2), range(count // 2, count)


def with_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """The answers with a column `score`; when suppressing, 2 - concept stands for concept.

    Raises:
        InputError: if a column is missing, a rating is off the scale, a direction is unknown, a
            key is missing, or an answer is there twice.
    """
    _require(frame, _ANSWER, gaps=RATINGS)
    _refuse_copies(frame, _ANSWER)
    unknown = sorted(set(frame["direction"]) - set(DIRECTIONS))
    if unknown:
        raise InputError(f"the direction {unknown[0]!r} is not one of {', '.join(DIRECTIONS)}")
    ratings = {}
    for name in RATINGS:
        values = pd.to_numeric(frame[name], errors="coerce")
        bad = (values.isna() & frame[name].notna()) | (values < 0) | (values > HIGHEST)
        if bad.any():
            value = frame.loc[bad, name].tolist()[0]
            raise InputError(
                f"the rating {value!r} for {name} is not a number from 0 to "
                f"{HIGHEST}; leave it empty where the judge gave none"
            )
        ratings[name] = values.to_numpy(dtype=float)
    suppressed = (frame["direction"] == "suppress").to_numpy()
    shown = np.where(suppressed, HIGHEST - ratings["concept"], ratings["concept"])
    score = harmonic_mean(shown, ratings["instruction"], ratings["fluency"])
    return frame.assign(**ratings, score=score)


def select_multipliers(scored: pd.DataFrame, instructions: int) -> pd.DataFrame:
    """The multipliers of each method, concept and direction, for either half of the instructions.

    The highest mean score decides, and ties go to the smallest. Missing ratings are left out of the
    mean, and a multiplier without any rated answer cannot be chosen; where that is all of them, the
    multiplier is NaN, and a warning says so.

    Args:
        scored: from `with_scores`.
        instructions: of each concept.

    Returns:
        Two rows for each: method, concept_id, direction, the `half` that is reported, and the
        multipliers `fair`, chosen on the other half, and `oracle`, chosen on this one.

    Raises:
        InputError: if a half has no rated answers at all.
    """
    first, second = halves(instructions)
    best = {"first": _best(scored, first), "second": _best(scored, second)}
    parts = [
        best[other]
        .rename(columns={"multiplier": "fair"})
        .assign(half=half, oracle=best[half]["multiplier"])
        for half, other in zip(HALVES, reversed(HALVES), strict=True)
    ]
    selected = pd.concat(parts, ignore_index=True)[[*_CASE, "half", "fair", "oracle"]]
    return selected.sort_values([*_CASE, "half"], ignore_index=True)


def _best(scored: pd.DataFrame, chosen_on: Iterable[int]) -> pd.DataFrame:
    """Per method, concept and direction, the `multiplier` that is best on some inputs."""
    rows = scored[scored["input_id"].isin(list(chosen_on))].dropna(subset=["score"])
    if rows.empty:
        raise InputError("no answer to the inputs that choose multipliers is rated; judge them")
    means = rows.groupby([*_CASE, "multiplier"], observed=True)[["score"]].mean().round(_DIGITS)
    best = means.reset_index().sort_values(["score", "multiplier"], ascending=[False, True])
    cases = scored[_CASE].drop_duplicates().sort_values(_CASE, ignore_index=True)
    chosen = best.drop_duplicates(_CASE).drop(columns="score")
    selected = cases.merge(chosen, on=_CASE, how="left")
    for case in selected.loc[selected["multiplier"].isna(), _CASE].itertuples(index=False):
        log.warning("%s, concept %s, %s: no rated answer to choose a multiplier by", *case)
    return selected


def reported(
    scored: pd.DataFrame, selected: pd.DataFrame, instructions: int, choice: Choice = "fair"
) -> pd.DataFrame:
    """The answers at the chosen multipliers, one for each instruction.

    Args:
        scored: from `with_scores`.
        selected: from `select_multipliers`.
        instructions: of each concept.
        choice: which of its multipliers.

    Raises:
        InputError: if a chosen multiplier has no answers in the half that it is reported on.
    """
    chosen = selected.dropna(subset=[choice])[[*_CASE, "half", choice]]
    chosen = chosen.rename(columns={choice: "multiplier"})
    keys = [*_CASE, "half", "multiplier"]
    rows = with_halves(scored, instructions).merge(chosen, on=keys, validate="many_to_one")
    there = set(rows[[*_CASE, "half"]].itertuples(index=False, name=None))
    for *case, multiplier in chosen.itertuples(index=False, name=None):
        if tuple(case) not in there:
            method, concept, direction, half = case
            raise InputError(
                f"{method}, concept {concept}, {direction}, has no answers to the {half} half of "
                f"the instructions at its multiplier {multiplier:g}; generate them"
            )
    return rows.drop(columns="half")


def with_halves(scored: pd.DataFrame, instructions: int) -> pd.DataFrame:
    """The answers with the column `half`, to which half of the instructions each belongs."""
    first = scored["input_id"].isin(halves(instructions)[0])
    return scored.assign(half=np.where(first, *HALVES))


def fixed(scored: pd.DataFrame) -> pd.DataFrame:
    """The answers at multiplier 1; a method that was not run at 1 has none."""
    return scored[scored["multiplier"] == 1].reset_index(drop=True)


def summarise(reported: pd.DataFrame) -> pd.DataFrame:
    """One row per method and direction.

    Args:
        reported: scored answers, one for each input of a concept (`reported` or `fixed`).

    Returns:
        The columns method, direction, `score` (mean over concepts of the concept's mean),
        `score_low` and `score_high` (Student's 95% interval over concepts; NaN with fewer than
        two), `concepts` (those with a rated answer) and `missing` (share of answers that lack a
        rating).

    Raises:
        InputError: if an input of a concept is there twice, as with several multipliers.
    """
    missing = reported["score"].isna().groupby([reported[name] for name in _WAY]).mean()
    means = _means_over_concepts(concept_means(reported), "score", _WAY, _MOST)
    every = missing.rename("missing").reset_index().merge(means, on=_WAY, how="left")
    every["concepts"] = every["concepts"].fillna(0).astype(int)
    return every[[*_WAY, "score", "score_low", "score_high", "concepts", "missing"]]


def winners(reported: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Every method against the reference, in each direction that both have; best first.

    Returns:
        The columns method, reference and direction, and over the concepts that both have:
        `difference`, mean of the method's mean score less the reference's, with Student's 95%
        interval (`difference_low`, `difference_high`; NaN with fewer than two concepts); `p` of the
        exact two-sided sign-flip test over concepts (NaN with fewer than six); `p_holm`, the same
        corrected for the number of tests in this table; `winrate`, mean of 1 for a win, 0.5 for a
        tie, 0 for a loss (AxBench), with its interval; and `concepts`, how many there are.

    Raises:
        InputError: if the reference has no answers.
    """
    means = concept_means(reported)
    if reference not in set(means["method"]):
        known = ", ".join(sorted(means["method"].unique()))
        raise InputError(f"the reference {reference!r} has no rated answers; there are {known}")
    records = []
    for direction in DIRECTIONS:
        here = means[means["direction"] == direction]
        scores = here.pivot(index="concept_id", columns="method", values="score")
        for method in scores.columns.difference([reference]) if reference in scores else ():
            names = {"method": method, "reference": reference, "direction": direction}
            records.append({**names, **_lead(scores[method], scores[reference])})
    parts = ("difference", "difference_low", "difference_high", "p", "winrate", "winrate_low")
    columns = ["method", "reference", "direction", *parts, "winrate_high", "concepts"]
    table = pd.DataFrame(records, columns=columns)
    table.insert(columns.index("p") + 1, "p_holm", holm(table["p"].to_numpy(dtype=float)))
    keys = ["direction", "difference", "method"]
    return table.sort_values(keys, ascending=[True, False, True], ignore_index=True)


def _lead(first: "pd.Series[float]", second: "pd.Series[float]") -> dict[str, float]:
    """One method's lead over another, by concept; NaN if they share none."""
    gaps: Numbers = np.asarray((first - second).dropna().round(_DIGITS), dtype=np.float64)
    wins = (np.sign(gaps) + 1) / 2
    return {
        **mean_with_interval("difference", gaps, within=(-_MOST, _MOST)),
        "p": sign_flip_p(gaps),
        **mean_with_interval("winrate", wins, within=(0.0, 1.0)),
        "concepts": len(gaps),
    }


def detection_auroc(latents: pd.DataFrame) -> pd.DataFrame:
    """Area under the ROC curve by which a direction tells texts with the concept from others.

    Args:
        latents: one row per text: method, concept_id, label (positive or negative) and score, the
            largest coordinate over the text's tokens along the direction, which has to point
            towards the concept.

    Returns:
        One row per method and concept: method, concept_id, `auroc`, and the number of `positive`
        and `negative` texts.

    Raises:
        InputError: if a column, a score or a class of a concept is missing, or a label unknown.
    """
    _require(latents, ["method", "concept_id", "label", "score"])
    unknown = sorted(set(latents["label"]) - set(LABELS))
    if unknown:
        raise InputError(f"the label {unknown[0]!r} is not one of {', '.join(LABELS)}")
    records = []
    for (method, concept), rows in latents.groupby(["method", "concept_id"], observed=True):
        counts = {label: int((rows["label"] == label).sum()) for label in LABELS}
        for label, count in counts.items():
            if not count:
                raise InputError(f"{method}, concept {concept}, has no {label} text; add some")
        auroc = float(roc_auc_score(rows["label"] == "positive", rows["score"]))
        records.append({"method": method, "concept_id": concept, "auroc": auroc, **counts})
    return pd.DataFrame(records, columns=["method", "concept_id", "auroc", *LABELS])


def mean_auroc(per_concept: pd.DataFrame) -> pd.DataFrame:
    """AxBench's concept detection: per method the mean `auroc`, `auroc_low`, `auroc_high`."""
    return _means_over_concepts(per_concept, "auroc", ["method"], 1.0).drop(columns="concepts")


def _means_over_concepts(
    table: pd.DataFrame, name: str, keys: list[str], highest: float
) -> pd.DataFrame:
    """Mean and 95% interval of a column with a row per concept, and the number of `concepts`."""
    records = [
        {
            **dict(zip(keys, values, strict=True)),
            **mean_with_interval(name, rows[name].to_numpy(dtype=float), within=(0.0, highest)),
            "concepts": len(rows),
        }
        for values, rows in table.groupby(keys, observed=True)
    ]
    return pd.DataFrame(records, columns=[*keys, name, f"{name}_low", f"{name}_high", "concepts"])


def concept_means(reported: pd.DataFrame) -> pd.DataFrame:
    """Mean `score` of each method, concept and direction that has one."""
    _require(reported, [*_CASE, "input_id"], gaps=["score"])
    _refuse_copies(reported, [*_CASE, "input_id"])
    known = reported.dropna(subset=["score"]).sort_values([*_CASE, "input_id"])
    return known.groupby(_CASE, observed=True)[["score"]].mean().reset_index()


def _require(frame: pd.DataFrame, columns: Sequence[str], *, gaps: Sequence[str] = ()) -> None:
    """The columns are there, without gaps; and those in `gaps`, which may have some."""
    absent = [name for name in (*columns, *gaps) if name not in frame.columns]
    if absent:
        raise InputError(f"the table has no column {absent[0]}; add it")
    for name in columns:
        if frame[name].isna().any():
            row = frame.index[frame[name].isna()][0]
            raise InputError(f"row {row} of the table has no {name}; fill it or drop the row")


def _refuse_copies(frame: pd.DataFrame, key: Sequence[str]) -> None:
    copies = frame.duplicated(list(key))
    if copies.any():
        row = frame.loc[copies, list(key)].iloc[0]
        named = ", ".join(f"{name} {value}" for name, value in row.items())
        raise InputError(f"there are several rows for {named}; keep one")
