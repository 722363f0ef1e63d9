from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import harmonic_mean as reference
from typing import Any

import pandas as pd
import pytest

from benchmarks.judges.ratings import (
    Item,
    Kind,
    Rating,
    one_judge,
    ratings_table,
)
from concept_das.errors import InputError


@dataclass(frozen=True)
class Fixed:
    """Always says the same."""

    name: str
    kind: Kind

    def rate(self, items: Sequence[Item]) -> list[Rating]:
        return [Rating(2, 1, 2)] * len(items)


def table(name: str = "api a", kind: Kind = "api", count: int = 2) -> pd.DataFrame:
    judge = Fixed(name, kind)
    items = [Item(f"instruction {i}", "text", "concept") for i in range(count)]
    return ratings_table(judge, items, judge.rate(items))


def test_the_score_is_the_harmonic_mean_for_every_combination() -> None:
    for values in product(range(3), repeat=3):
        assert Rating(*values).score() == pytest.approx(reference(values))
        concept, instruct, fluency = values
        suppressed = Rating(*values).score(suppression=True)
        assert suppressed == pytest.approx(reference([2 - concept, instruct, fluency]))


@pytest.mark.parametrize("values", [(None, 2, 2), (2, None, 0), (0, 0, None), (None, None, None)])
@pytest.mark.parametrize("suppression", [False, True])
def test_a_missing_rating_makes_the_score_missing_and_not_zero(
    values: Any, suppression: bool
) -> None:
    assert Rating(*values).score(suppression=suppression) is None


@pytest.mark.parametrize("value", [-1, 3, 1.5, "2", float("nan")])
def test_a_rating_off_the_scale_is_rejected(value: Any) -> None:
    with pytest.raises(InputError, match="instruct"):
        Rating(0, value, 1)


def test_the_table_keeps_missing_as_nan_and_names_the_judge() -> None:
    items = [Item("a", "b", "c"), Item("d", "e", "f"), Item("g", "h", "i")]
    ratings = [Rating(0, 1, 2), Rating(None, 2, 2), Rating(0, 2, 2)]
    rows = ratings_table(Fixed("api x", "api"), items, ratings, suppression=True)
    assert list(rows["judge_kind"]) == ["api"] * 3
    assert list(rows["judge"]) == ["api x"] * 3
    assert list(rows["instruction"]) == ["a", "d", "g"]
    assert list(rows["rating_concept"].isna()) == [False, True, False]
    assert rows["score"].tolist()[::2] == pytest.approx([1.5, 2.0])
    assert list(rows["score"].isna()) == [False, True, False]
    assert rows["score"].mean() == pytest.approx(1.75)


def test_a_table_of_missing_ratings_only_has_numeric_columns() -> None:
    rows = ratings_table(Fixed("a", "api"), [Item("a", "b", "c")], [Rating(None, None, None)])
    assert rows["score"].dtype == float
    assert rows["rating_fluency"].isna().all()


def test_tables_of_one_judge_are_joined_in_order() -> None:
    joined = one_judge([table(count=2), table(count=0), table(count=3)])
    assert list(joined["instruction"]) == [f"instruction {i}" for i in (0, 1, 0, 1, 2)]
    assert list(joined.index) == list(range(5))


@pytest.mark.parametrize(
    ("name", "kind"), [("api a", "proxy"), ("api b", "api"), ("proxy by x", "proxy")]
)
def test_judges_are_never_mixed(name: str, kind: Kind) -> None:
    with pytest.raises(InputError, match=f"api: api a.*{kind}: {name}"):
        one_judge([table(), table(name, kind)])


def test_a_table_that_mixes_judges_already_is_rejected() -> None:
    mixed = pd.concat([table(), table("proxy by x", "proxy")])
    with pytest.raises(InputError, match="different judges"):
        one_judge([mixed])


def test_ratings_of_an_unknown_judge_are_rejected() -> None:
    with pytest.raises(InputError, match="judge_kind"):
        one_judge([table(), table().drop(columns="judge_kind")])
    with pytest.raises(InputError, match="does not say who"):
        one_judge([table().assign(judge=[None, "api a"])])
    with pytest.raises(InputError, match="no ratings"):
        one_judge([])
