"""The rows of a report: which there are, what is in them, and in what order."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.axbench.scores import (
    detection_auroc,
    fixed,
    mean_auroc,
    select_multipliers,
    summarise,
    with_scores,
)
from benchmarks.axbench.tables import (
    COLUMNS,
    answers_by_factor,
    comparisons,
    fixed_methods,
    method_table,
    shown_tables,
)
from concept_das.errors import InputError
from tests.benchmarks.axbench.made import GRIDS, INSTRUCTIONS, latents, made_answers


@pytest.fixture(scope="module")
def scored() -> pd.DataFrame:
    return with_scores(made_answers())


@pytest.fixture(scope="module")
def selected(scored: pd.DataFrame) -> pd.DataFrame:
    return select_multipliers(scored, INSTRUCTIONS)


def table_of(scored: pd.DataFrame, selected: pd.DataFrame, **given: Any) -> pd.DataFrame:
    by_factor = answers_by_factor(scored, selected, INSTRUCTIONS)
    return method_table(scored, by_factor, **given)


def test_one_row_for_each_method_direction_and_factor(
    scored: pd.DataFrame, selected: pd.DataFrame
) -> None:
    table = table_of(scored, selected)
    assert list(table) == list(COLUMNS)
    rows = set(table[["method", "direction", "factor"]].itertuples(index=False, name=None))
    assert len(rows) == len(table)
    both = ("elicit", "suppress")
    assert rows == {
        *(("cdas", d, f) for d in both for f in ("fair", "fixed", "oracle")),
        *(("reps", d, f) for d in both for f in ("fair", "oracle")),  # it was not run at 1
        *((m, d, "NA") for m in ("prompt", "unsteered") for d in both),
        ("lora", "elicit", "NA"),
    }
    assert fixed_methods(scored) == ["lora", "prompt", "unsteered"]
    assert set(table["judge"]) == {"proxy by tiny"}
    assert set(table["judge_kind"]) == {"proxy"}
    assert table["caution"].str.contains("proxy ratings").all()


def test_the_best_comes_first_then_fixed_then_oracle_then_the_baseline(
    scored: pd.DataFrame, selected: pd.DataFrame
) -> None:
    table = table_of(scored, selected)
    assert list(table["direction"]) == sorted(table["direction"])
    for _, rows in table.groupby("direction"):
        competing = rows[rows["factor"].isin(["fair", "NA"]) & (rows["method"] != "unsteered")]
        assert competing["score"].is_monotonic_decreasing
        assert list(rows["factor"])[len(competing) :] == ["fixed", "oracle", "oracle", "NA"]
        assert rows["method"].iloc[-1] == "unsteered"


def test_the_numbers_are_those_of_the_scores(scored: pd.DataFrame, selected: pd.DataFrame) -> None:
    table = table_of(scored, selected).set_index(["method", "direction", "factor"])
    expected = summarise(fixed(scored)).set_index(["method", "direction"])
    names = ["score", "score_low", "score_high", "concepts", "missing"]
    for method, direction, factor in [("cdas", "suppress", "fixed"), ("lora", "elicit", "NA")]:
        found = table.loc[(method, direction, factor), names]
        np.testing.assert_allclose(
            found.to_numpy(dtype=float), expected.loc[(method, direction), names].to_numpy(float)
        )
    means = (
        scored[scored["method"] == "lora"]
        .groupby("concept_id")[["concept", "instruction", "fluency"]]
        .mean()
        .mean()
    )
    row = table.loc[("lora", "elicit", "NA")]
    for name, value in means.items():
        assert row[f"{name}_rating"] == pytest.approx(value)


def test_published_scores_stand_beside_those_of_the_same_factor(
    scored: pd.DataFrame, selected: pd.DataFrame
) -> None:
    table = table_of(scored, selected, cell="2b-l10")
    rows = table.set_index(["method", "direction", "factor"])
    assert rows.loc[("cdas", "elicit", "fair"), "published"] == 0.631
    assert rows.loc[("cdas", "elicit", "fixed"), "published"] == 0.121
    assert rows.loc[("cdas", "elicit", "oracle"), "published"] == 0.662
    assert "AxBench leaderboard" in rows.loc[("prompt", "elicit", "NA"), "published_source"]
    assert rows.xs("suppress", level="direction")["published"].isna().all()
    assert rows.xs("unsteered")["published"].isna().all()
    known = table[table["published"].notna()]
    assert known["difference"].isna().all()
    assert known["caution"].str.contains("proxy ratings, not gpt-4o-mini's").all()
    by_model = scored.assign(judge="local tiny", judge_kind="local")
    local = table_of(by_model, selected, cell="2b-l10")
    assert "a local model" in local.loc[local["published"].notna(), "caution"].iloc[0]
    assert set(local.loc[local["published"].isna(), "caution"]) == {""}


def test_a_difference_is_given_where_all_is_the_papers_and_else_the_reasons(
    scored: pd.DataFrame, selected: pd.DataFrame
) -> None:
    rated = scored.assign(judge="api gpt-4o-mini", judge_kind="api")
    table = table_of(rated, selected, cell="2b-l10", apart=["reps"])
    known = table[table["published"].notna()].set_index("method")
    same, other = known.drop(index="reps"), known.loc[["reps"]]
    np.testing.assert_allclose(same["difference"], same["score_missing_as_0"] - same["published"])
    assert set(same["caution"]) == {""}
    assert other["difference"].isna().all()
    assert other["caution"].str.contains("the method's settings").all()
    assert "difference" in shown_tables(table, selected, None, "2b-l10")["Elicit"]
    reasons = ["the judge's questions are this project's", "the data have 10 concepts"]
    table = table_of(rated, selected, cell="2b-l10", differences=reasons)
    assert table["difference"].isna().all()
    said = f"published scores: {reasons[0]}; {reasons[1]}."
    caution = table.loc[table["published"].notna(), "caution"]
    assert caution.str.contains(said, regex=False).all()
    shown = shown_tables(table, selected, None, "2b-l10")["Elicit"]
    assert "published (not comparable)" in shown
    assert "difference" not in shown


def test_ratings_that_could_not_be_read_are_left_out_or_count_0(
    scored: pd.DataFrame, selected: pd.DataFrame
) -> None:
    rows = table_of(scored, selected).set_index(["method", "direction", "factor"])
    row = rows.loc[("prompt", "elicit", "NA")]
    assert row["missing"] > 0
    chosen = scored[(scored["method"] == "prompt") & (scored["direction"] == "elicit")]
    by_hand = chosen.assign(score=chosen["score"].fillna(0)).groupby("concept_id")["score"]
    assert row["score_missing_as_0"] == pytest.approx(by_hand.mean().mean())
    assert row["score_missing_as_0"] < row["score"]


def test_a_method_run_at_one_alone_is_not_put_beside_chosen_scores(scored: pd.DataFrame) -> None:
    at_one = fixed(scored)
    table = table_of(at_one, select_multipliers(at_one, INSTRUCTIONS), cell="2b-l10")
    assert set(table["factor"]) == {"NA"}
    row = table[(table["method"] == "cdas") & (table["direction"] == "elicit")].iloc[0]
    assert np.isnan(row["published"])
    shown = shown_tables(table, select_multipliers(at_one, INSTRUCTIONS), None, "2b-l10")
    rest = shown["Published for 2b-l10, not measured here"]
    assert {"cdas", "reps"} <= set(rest["method"])
    assert "prompt" not in set(rest["method"])


def test_detection_is_the_methods(scored: pd.DataFrame, selected: pd.DataFrame) -> None:
    detection = detection_auroc(latents())
    table = table_of(scored, selected, detection=detection)
    summary = mean_auroc(detection).set_index("method")
    cdas = table[table["method"] == "cdas"]
    assert len(cdas) == 6
    assert (cdas["auroc"] == summary.loc["cdas", "auroc"]).all()
    assert (cdas["auroc_low"] == summary.loc["cdas", "auroc_low"]).all()
    assert table.loc[table["method"] == "prompt", "auroc"].isna().all()
    shown = shown_tables(table, selected, None, None)
    assert "detection AUROC" in shown["Elicit (proxy ratings)"]


def test_a_method_that_nobody_rated_is_not_lost(scored: pd.DataFrame) -> None:
    unrated = scored["method"] == "reps"
    gaps = with_scores(scored.assign(fluency=scored["fluency"].where(~unrated)))
    table = table_of(gaps, select_multipliers(gaps, INSTRUCTIONS))
    rows = table[table["method"] == "reps"]
    assert list(rows["factor"]) == ["fair", "fair"]
    assert list(rows["concepts"]) == [0, 0]
    assert rows["score"].isna().all()


def test_the_order_of_rows_does_not_matter(scored: pd.DataFrame, selected: pd.DataFrame) -> None:
    shuffled = scored.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(
        table_of(shuffled, selected.iloc[::-1]),
        table_of(scored, selected),
        check_exact=True,
    )


def test_every_factor_has_one_answer_for_each_instruction(
    scored: pd.DataFrame, selected: pd.DataFrame
) -> None:
    by_factor = answers_by_factor(scored, selected, INSTRUCTIONS)
    for rows in by_factor.values():
        assert set(rows["input_id"]) == set(range(INSTRUCTIONS))
        assert not rows.duplicated(["method", "concept_id", "direction", "input_id"]).any()
    assert set(by_factor["fair"]["method"]) == {"cdas", "reps"}
    assert set(by_factor["NA"]["method"]) == set(GRIDS) - {"cdas", "reps"}


def test_every_method_meets_the_untouched_model_and_cdas(
    scored: pd.DataFrame, selected: pd.DataFrame
) -> None:
    by_factor = answers_by_factor(scored, selected, INSTRUCTIONS)
    found = comparisons(by_factor)
    assert found is not None
    methods = found.groupby(["factor", "reference"])["method"].agg(set).to_dict()
    others = {"reps", "prompt", "lora"}
    assert methods == {
        ("fair", "unsteered"): others | {"cdas"},
        ("fair", "cdas"): others,
        ("fixed", "unsteered"): others - {"reps"} | {"cdas"},  # it was not run at 1
        ("fixed", "cdas"): others - {"reps"},
    }
    assert found["p"].isna().all()  # of five concepts
    shown = shown_tables(table_of(scored, selected), selected, found, None)
    assert set(shown["Against unsteered, fair (proxy ratings)"]["p"]) == {"too few"}
    alone = {name: rows[rows["method"] == "lora"] for name, rows in by_factor.items()}
    assert comparisons(alone) is None


def test_a_proxy_is_called_one_wherever_it_is_shown(
    scored: pd.DataFrame, selected: pd.DataFrame
) -> None:
    table = table_of(scored, selected, cell="2b-l10")
    against = comparisons(answers_by_factor(scored, selected, INSTRUCTIONS))
    shown = shown_tables(table, selected, against, "2b-l10")
    assert list(shown) == [
        "Elicit (proxy ratings)",
        "Suppress (proxy ratings)",
        *(
            f"Against {reference}, {factor} (proxy ratings)"
            for factor in ("fair", "fixed")
            for reference in ("unsteered", "cdas")
        ),
        "Chosen multipliers",
        "Published for 2b-l10, not measured here",
    ]
    elicit = shown["Elicit (proxy ratings)"]
    assert {"score (proxy)", "published (not comparable)"} <= set(elicit)
    assert elicit["method"].iloc[-1] == "unsteered (baseline)"
    assert not [name for name in shown["Suppress (proxy ratings)"] if "published" in name]
    assert set(shown["Chosen multipliers"]["method"]) == {"cdas", "reps"}
    rated = scored.assign(judge="gpt", judge_kind="api")
    plain = shown_tables(table_of(rated, selected), selected, None, None)
    assert not [text for text in [*plain, *plain["Elicit"]] if "proxy" in text]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="score"), "no column score; make it with with_scores"),
        (lambda frame: frame.drop(columns="input_id"), "no column input_id; add it"),
        (lambda frame: frame.iloc[:0], "is empty; generate and judge some"),
    ],
)
def test_what_is_no_table_of_answers(
    change: object, message: str, scored: pd.DataFrame, selected: pd.DataFrame
) -> None:
    by_factor = answers_by_factor(scored, selected, INSTRUCTIONS)
    with pytest.raises(InputError, match=message):
        method_table(change(scored), by_factor)  # type: ignore[operator]
