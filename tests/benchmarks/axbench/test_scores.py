"""Scores by hand, and what must not change them."""

import statistics
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from benchmarks.axbench.scores import (
    detection_auroc,
    fixed,
    halves,
    harmonic_mean,
    mean_auroc,
    reported,
    select_multipliers,
    summarise,
    winners,
    with_scores,
)
from concept_das.errors import InputError

NAN = float("nan")
FIRST, LAST = halves(10)


def answers(
    method: str = "cdas",
    concept_id: int = 0,
    direction: str = "elicit",
    by_multiplier: dict[float, list[float]] | None = None,
    first_input: int = 0,
) -> pd.DataFrame:
    """Answers whose three ratings are equal, so that an elicited answer's score is the rating."""
    rows = [
        (method, concept_id, direction, multiplier, first_input + i, rating, rating, rating)
        for multiplier, ratings in (by_multiplier or {1.0: [1.0] * 10}).items()
        for i, rating in enumerate(ratings)
    ]
    columns = ["method", "concept_id", "direction", "multiplier", "input_id"]
    return pd.DataFrame(rows, columns=[*columns, "concept", "instruction", "fluency"])


def table(scores: dict[str, list[float]], direction: str = "elicit") -> pd.DataFrame:
    """One held-out answer for each concept, by method."""
    parts = [
        answers(method, concept, direction, {1.0: [score]}, first_input=5)
        for method, by_concept in scores.items()
        for concept, score in enumerate(by_concept)
    ]
    return with_scores(pd.concat(parts, ignore_index=True))


def noisy(seed: int = 0) -> pd.DataFrame:
    """Two methods, six concepts, both directions, three multipliers, some ratings missing."""
    rng = np.random.default_rng(seed)
    keys = product(["cdas", "reps"], range(6), ["elicit", "suppress"], [0.5, 1.0, 2.0], range(10))
    columns = ["method", "concept_id", "direction", "multiplier", "input_id"]
    frame = pd.DataFrame(keys, columns=columns)
    for name in ("concept", "instruction", "fluency"):
        frame[name] = rng.choice([0.0, 1.0, 2.0, NAN], len(frame), p=[0.2, 0.4, 0.35, 0.05])
    return frame


def test_a_missing_rating_makes_the_mean_missing_and_a_zero_makes_it_zero() -> None:
    values = np.array(list(product([0, 1, 2, NAN], repeat=3)))
    expected = [NAN if np.isnan(v).any() else statistics.harmonic_mean(v.tolist()) for v in values]
    np.testing.assert_allclose(harmonic_mean(*values.T), expected)
    assert float(harmonic_mean(1, 2, 2)) == pytest.approx(1.5)


def test_suppression_turns_the_concept_rating_round() -> None:
    frame = pd.concat(
        [answers(direction=d, by_multiplier={1.0: [2.0]}) for d in ("elicit", "suppress")]
    )
    frame = frame.assign(concept=[0.5, 0.5], instruction=[1.0, 1.0])
    scores = with_scores(frame)["score"]
    assert list(scores) == pytest.approx([3 / (2 + 1 + 0.5), 3 / (1 / 1.5 + 1 + 0.5)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concept": 2.5}, "2.5 for concept"),
        ({"fluency": -1}, "-1 for fluency"),
        ({"instruction": "make tea"}, "'make tea' for instruction"),
        ({"direction": "erase"}, "'erase'"),
        ({"multiplier": NAN}, "no multiplier"),
        ({"input_id": 0}, "method cdas, concept_id 0, direction elicit.*input_id 0"),
    ],
)
def test_a_bad_table_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_scores(answers().assign(**change))
    with pytest.raises(InputError, match="no column fluency"):
        with_scores(answers().drop(columns="fluency"))


def test_fair_and_oracle_multipliers_by_hand() -> None:
    # 2 is best on the first half, 1 on the second.
    low, high = [0.5] * 5, [2.0] * 5
    scored = with_scores(answers(by_multiplier={1.0: low + high, 2.0: [1.5] * 5 + low}))
    selected = select_multipliers(scored, 10)
    assert selected[["half", "fair", "oracle"]].to_numpy().tolist() == [
        ["first", 1.0, 2.0],
        ["second", 2.0, 1.0],
    ]
    fair = reported(scored, selected, 10)
    assert list(fair.sort_values("input_id")["score"]) == pytest.approx(low + low)
    assert sorted(fair["input_id"]) == list(range(10))
    oracle = reported(scored, selected, 10, "oracle").sort_values("input_id")
    assert list(oracle["score"]) == pytest.approx([1.5] * 5 + high)
    assert list(fixed(scored)["score"]) == pytest.approx(low + high)


def test_the_oracle_is_never_below_fair_and_fair_needs_no_luck() -> None:
    # Every multiplier is equally good: choosing the best of the reported half gains from noise.
    rng = np.random.default_rng(0)
    parts = [
        answers(concept_id=c, by_multiplier={m: list(rng.uniform(0, 2, 10)) for m in (0.5, 1, 2)})
        for c in range(200)
    ]
    scored = with_scores(pd.concat(parts, ignore_index=True))
    selected = select_multipliers(scored, 10)
    score = {
        choice: float(summarise(reported(scored, selected, 10, choice))["score"].iloc[0])
        for choice in ("fair", "oracle")
    }
    assert score["fair"] == pytest.approx(1.0, abs=0.05)
    assert score["oracle"] > 1.15


def test_ties_go_to_the_smallest_in_any_order_of_rows() -> None:
    tied = {3.0: [0.1, 0.2, 0.3, 0.7, 1.1], 1.5: [1.1, 0.7, 0.3, 0.2, 0.1], 0.5: [0.1] * 5}
    scored = with_scores(answers(by_multiplier={m: scores * 2 for m, scores in tied.items()}))
    for frame in (scored, scored.iloc[::-1]):
        assert list(select_multipliers(frame, 10)["fair"]) == [1.5, 1.5]


def test_means_that_differ_by_rounding_alone_are_ties() -> None:
    # Both means are 0.9; in floating point the first comes out one step lower.
    few, fewer = [0.0, 1.2, 1.2, 1.2, NAN], [0.0, 1.2, 1.5, NAN, NAN]
    assert pd.Series(few).mean() < pd.Series(fewer).mean()
    scored = with_scores(answers(by_multiplier={1.0: few * 2, 2.0: fewer * 2}))
    assert list(select_multipliers(scored, 10)["oracle"]) == [1.0, 1.0]


def test_missing_ratings_do_not_count_in_the_choice() -> None:
    gaps = {1.0: [1.2] * 5, 2.0: [1.5] + [NAN] * 4, 3.0: [NAN] * 5}
    scored = with_scores(answers(by_multiplier={m: scores * 2 for m, scores in gaps.items()}))
    assert list(select_multipliers(scored, 10)["fair"]) == [2.0, 2.0]


def test_a_concept_without_any_rating_has_no_multiplier(caplog: pytest.LogCaptureFixture) -> None:
    unrated = answers("reps", 7, by_multiplier={1.0: [NAN] * 10})
    scored = with_scores(pd.concat([answers(), unrated], ignore_index=True))
    selected = select_multipliers(scored, 10)
    assert selected["fair"].isna().tolist() == [False, False, True, True]
    assert "reps, concept 7, elicit" in caplog.text
    assert set(reported(scored, selected, 10)["method"]) == {"cdas"}
    with pytest.raises(InputError, match="rated"):
        select_multipliers(scored[scored["method"] == "reps"], 10)


def test_held_out_answers_must_be_there() -> None:
    by_multiplier = {1.0: [1.0] * 10, 2.0: [2.0] * 5}
    scored = with_scores(answers(by_multiplier=by_multiplier))
    with pytest.raises(InputError, match="cdas, concept 0, elicit, has no answers to the second"):
        reported(scored, select_multipliers(scored, 10), 10)


def test_halves_take_odd_counts() -> None:
    assert halves(7) == (range(3), range(3, 7))
    assert (range(5), range(5, 10)) == (FIRST, LAST)
    with pytest.raises(InputError, match="1 instructions"):
        halves(1)


def test_the_summary_is_a_mean_of_concept_means() -> None:
    # One concept has four answers and one of them unrated, the other one answer.
    rows = pd.concat(
        [
            answers(concept_id=0, by_multiplier={1.0: [0.0, 1.0, 2.0, NAN]}),
            answers(concept_id=1, by_multiplier={1.0: [2.0]}),
            answers(concept_id=2, by_multiplier={1.0: [NAN]}),
        ]
    )
    (row,) = summarise(with_scores(rows)).to_dict("records")
    assert row["score"] == pytest.approx(1.5)
    assert row["concepts"] == 2
    assert row["missing"] == pytest.approx(2 / 6)
    # Of two concepts, and cut at the ends of the scale.
    assert (row["score_low"], row["score_high"]) == (0.0, 2.0)


def test_one_concept_has_no_interval_and_no_answers_no_rows() -> None:
    (row,) = summarise(table({"cdas": [1.0]})).to_dict("records")
    assert row["score"] == 1.0
    assert np.isnan([row["score_low"], row["score_high"]]).all()
    empty = summarise(table({"cdas": [1.0]}).iloc[:0])
    assert len(empty) == 0
    assert "score_low" in empty


def test_the_interval_has_the_width_of_the_standard_error() -> None:
    values = np.random.default_rng(1).uniform(0, 2, 200)
    (row,) = summarise(table({"cdas": list(values)})).to_dict("records")
    half_width = 1.96 * values.std() / np.sqrt(len(values))
    assert row["score_high"] - row["score_low"] == pytest.approx(2 * half_width, rel=0.05)


def test_several_multipliers_of_a_concept_are_not_averaged() -> None:
    scored = with_scores(answers(by_multiplier={1.0: [1.0] * 10, 2.0: [1.0] * 10}))
    with pytest.raises(InputError, match="several rows"):
        summarise(scored)


def lead(scored: pd.DataFrame, method: str, reference: str) -> "pd.Series[Any]":
    (row,) = (row for _, row in winners(scored, reference).iterrows() if row["method"] == method)
    return row


def test_a_constant_advantage_is_certain_of_six_concepts_and_untested_of_five() -> None:
    six = table(
        {"cdas": [0.5, 1.0, 1.5, 2.0, 0.7, 0.9], "reps": [0.25, 0.75, 1.25, 1.75, 0.45, 0.65]}
    )
    found = lead(six, "cdas", "reps")
    interval = found[["difference", "difference_low", "difference_high"]].tolist()
    assert interval == pytest.approx([0.25] * 3)
    assert found["p"] == pytest.approx(2 / 2**6)
    assert (found["winrate"], found["concepts"]) == (1.0, 6)
    five = lead(six[six["concept_id"] < 5], "cdas", "reps")
    assert five["difference"] == pytest.approx(0.25)
    assert np.isnan(five[["p", "p_holm"]].to_numpy(float)).all()
    same = table({"cdas": [0.5] * 6, "reps": [0.5] * 6})
    assert lead(same, "cdas", "reps")["p"] == 1.0


def test_holms_rule_counts_the_tests_of_the_table() -> None:
    base = [1.0] * 8
    scores = {"b": base, **{f"m{i}": [1.1] * 8 for i in range(4)}}
    found = winners(table(scores), "b")
    assert found["p"].tolist() == pytest.approx([2 / 2**8] * 4)
    assert found["p_holm"].tolist() == pytest.approx([4 * 2 / 2**8] * 4)


def test_wins_ties_and_losses_by_hand() -> None:
    scored = table({"a": [2.0, 1.0, 1.0, 0.0], "b": [1.0, 1.0, 2.0, 1.0, 2.0]})
    found = lead(scored, "a", "b")
    assert found["concepts"] == 4  # the fifth is b's alone
    assert found["winrate"] == pytest.approx(1.5 / 4)
    assert found["difference"] == pytest.approx(-0.25)
    other = lead(scored, "b", "a")
    assert other["difference"] == -found["difference"]
    assert other["winrate"] == 1 - found["winrate"]
    turned = [-found["difference_high"], -found["difference_low"]]
    assert other[["difference_low", "difference_high"]].tolist() == pytest.approx(turned)


def test_p_is_small_exactly_when_the_interval_leaves_out_zero() -> None:
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.1, 0.2, 0.5):
        base = rng.uniform(0.5, 1.5, 20)
        scored = table({"a": list(base + shift + rng.normal(0, 0.1, 20)), "b": list(base)})
        found = lead(scored, "a", "b")
        without_zero = found["difference_low"] > 0 or found["difference_high"] < 0
        assert without_zero == (found["p"] < 0.05)


def test_methods_are_compared_on_shared_concepts_only() -> None:
    scored = table({"a": [1.0, 2.0, 1.0], "b": [1.0, 1.0, 1.0]})
    scored.loc[scored["method"] == "b", "concept_id"] += 10
    found = lead(scored, "a", "b")
    assert found["concepts"] == 0
    assert found[["difference", "p", "winrate"]].isna().all()


def test_winners_are_all_methods_against_the_reference() -> None:
    both = [table({"cdas": [1.0, 1.0], "a": [1.5, 1.5], "b": [2.0, 1.8]})]
    both.append(table({"cdas": [1.0, 1.0], "b": [0.5, 1.0]}, "suppress"))
    found = winners(pd.concat(both, ignore_index=True), "cdas")
    shown = found[["direction", "method", "reference", "winrate"]].to_numpy().tolist()
    assert shown == [
        ["elicit", "b", "cdas", 1.0],
        ["elicit", "a", "cdas", 1.0],
        ["suppress", "b", "cdas", 0.25],
    ]
    assert found["difference"].tolist()[:2] == pytest.approx([0.9, 0.5])
    with pytest.raises(InputError, match="'x' has no rated answers; there are a, b, cdas"):
        winners(both[0], "x")


def test_the_order_of_rows_changes_nothing() -> None:
    def tables(frame: pd.DataFrame) -> list[pd.DataFrame]:
        scored = with_scores(frame)
        selected = select_multipliers(scored, 10)
        fair = reported(scored, selected, 10)
        return [selected, summarise(fair), summarise(fixed(scored)), winners(fair, "reps")]

    frame = noisy()
    shuffled = frame.sample(frac=1, random_state=1)
    for one, other in zip(tables(frame), tables(shuffled), strict=True):
        assert len(one)
        assert_frame_equal(one, other, check_exact=True)


def test_auroc_by_hand() -> None:
    rows = [
        *[("cdas", 0, "positive", score) for score in (3.0, 2.0, 1.0)],
        *[("cdas", 0, "negative", score) for score in (0.0, 1.5)],
        *[("cdas", 1, label, 1.0) for label in ("positive", "negative")],
    ]
    latents = pd.DataFrame(rows, columns=["method", "concept_id", "label", "score"])
    found = detection_auroc(latents)
    assert found["auroc"].tolist() == pytest.approx([5 / 6, 0.5])
    assert found["negative"].tolist() == [2, 1]
    (row,) = mean_auroc(found).to_dict("records")
    assert row["auroc"] == pytest.approx((5 / 6 + 0.5) / 2)
    assert row["auroc_low"] < 0.5 < 5 / 6 < row["auroc_high"]
    # Only the order of scores matters, and a direction turned round has the complement.
    stretched = detection_auroc(latents.assign(score=np.exp(latents["score"])))
    assert_frame_equal(stretched, found)
    turned = detection_auroc(latents.assign(score=-latents["score"]))["auroc"]
    assert (turned + found["auroc"]).tolist() == pytest.approx([1.0, 1.0])


def test_auroc_needs_both_classes_and_all_scores() -> None:
    latents = pd.DataFrame(
        {"method": "cdas", "concept_id": 4, "label": ["positive", "negative"], "score": [1.0, 0.0]}
    )
    with pytest.raises(InputError, match="cdas, concept 4, has no negative"):
        detection_auroc(latents.iloc[:1])
    with pytest.raises(InputError, match="no score"):
        detection_auroc(latents.assign(score=[1.0, NAN]))
    with pytest.raises(InputError, match="'hard'"):
        detection_auroc(latents.assign(label=["positive", "hard"]))
