"""The tables of a report, from made-up measurements."""

import math

import pandas as pd
import pytest

from benchmarks.safety.tables import beside, layer_table, shown_tables, summary_of
from tests.benchmarks.safety.test_measures import CASE

TABLE = pd.DataFrame(
    {
        "method": ["unsteered", "cdas", "cdas", "das"],
        "seed": pd.array([None, 1, 2, 1], dtype="Int64"),
        "multiplier": [None, 1.0, 1.0, 1.0],
        "layers": [None, "3", "3", "3"],
        "loud": [0.0, 0.5, 0.7, 0.25],
        "loud_low": [0.0, 0.4, 0.6, 0.1],
        "loud_high": [0.1, 0.6, 0.8, 0.4],
        "kl": [1.0, 2.0, 4.0, None],
        "task_acc_change": [None, -0.1, -0.2, -0.3],
        "task_acc_change_stderr": [None, 0.01, 0.02, 0.03],
    }
)


def test_the_summary_is_over_seeds() -> None:
    summary = summary_of(CASE, TABLE).set_index("method")
    assert summary["seeds"].to_dict() == {"unsteered": 1, "cdas": 2, "das": 1}
    assert summary["loud"]["cdas"] == pytest.approx(0.6)
    assert summary["loud_sd"]["cdas"] == pytest.approx(0.02**0.5)
    assert math.isnan(summary["loud_sd"]["das"])
    # An interval is of one seed and not of a mean over seeds.
    assert math.isnan(summary["loud_low"]["cdas"])
    assert summary["loud_low"]["das"] == 0.1


def test_the_summary_in_words_has_a_table_for_each_section() -> None:
    tables = shown_tables(CASE, summary_of(CASE, TABLE))
    assert list(tables) == ["Loudness", "Distance", "Capabilities"]
    assert tables["Loudness"].set_index("method")["loud ± sd of seeds"].to_dict() == {
        "unsteered": "0.0%",
        "cdas": "60.0% ± 14.1",
        "das": "25.0%",
    }
    # What was not measured has no row.
    assert tables["Distance"]["method"].tolist() == ["unsteered", "cdas"]
    changes = tables["Capabilities"].set_index("method")["task acc change ± sd of seeds"]
    assert changes.to_dict() == {"cdas": "-15.0 points ± 7.1", "das": "-30.0 points"}


def test_with_one_seed_a_column_has_intervals_or_standard_errors() -> None:
    one = TABLE[TABLE["seed"].isna() | (TABLE["seed"] == 1)]
    tables = shown_tables(CASE, summary_of(CASE, one))
    assert tables["Loudness"].set_index("method")["loud [95%]"].to_dict() == {
        "unsteered": "0.0% [0.0, 10.0]",
        "cdas": "50.0% [40.0, 60.0]",
        "das": "25.0% [10.0, 40.0]",
    }
    changes = tables["Capabilities"].set_index("method")["task acc change ± standard error"]
    assert changes["das"] == "-30.0 points ± 3.0"


def test_published_numbers_stand_beside_the_reported_multiplier() -> None:
    known = pd.DataFrame({"method": ["cdas", "reps"], "loud": [0.9, 0.8], "source": "paper"})
    table = beside(CASE, summary_of(CASE, TABLE), known, {"cdas": 1.0, "das": 2.0})
    assert list(table) == ["method", "published loud", "multiplier", "measured loud", "source"]
    assert table["measured loud"][0] == pytest.approx(0.6)
    assert math.isnan(table["measured loud"][1])


def test_a_sweeps_rows_are_in_the_order_of_its_layers() -> None:
    swept = TABLE[TABLE["method"] != "unsteered"].assign(layers=["5", "3", "5"])
    table = layer_table(CASE, swept, [3, 5])
    assert table[["method", "layer"]].to_numpy().tolist() == [["cdas", 3], ["cdas", 5], ["das", 5]]
    assert {"loud", "loud_low", "task_acc_change_stderr"} <= set(table)
