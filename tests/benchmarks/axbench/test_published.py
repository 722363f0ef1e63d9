"""The published table, and measured scores beside it."""

import math
from dataclasses import asdict

import pandas as pd
import pytest

from benchmarks.axbench.published import CELLS, PUBLISHED, beside, published
from concept_das.errors import InputError


def summary(*rows: tuple[str, str, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["method", "direction", "score"])
    low, high = frame["score"] - 0.1, frame["score"] + 0.1
    return frame.assign(score_low=low, score_high=high, concepts=10, missing=0.0)


def test_every_number_is_there_once_with_a_source() -> None:
    table = pd.DataFrame([asdict(entry) for entry in PUBLISHED])
    assert not table.duplicated(["cell", "method", "factor"]).any()
    assert table["score"].between(0, 2).all()
    assert set(table["source"]) == {
        "CDAS paper",
        "AxBench leaderboard",
        "CDAS paper and AxBench leaderboard",
        "from memory, unverified",
    }
    assert len(table) == 61


def test_the_papers_gap_between_layers_comes_out() -> None:
    # The CDAS paper gives the difference between Gemma-2-2B's layers as 0.023 and 0.150.
    scores = {
        cell: published(cell).query("factor == 'tuned'").set_index("method")["score"]
        for cell in CELLS[:2]
    }
    for method, gap in (("cdas", 0.023), ("reps", 0.150)):
        first, second = (of[method] for of in scores.values())
        assert first - second == pytest.approx(gap)


def test_a_cell_keeps_unit_and_tuned_apart() -> None:
    cdas = published("2b-l10").query("method == 'cdas'").set_index("factor")["score"]
    assert cdas.to_dict() == {"tuned": 0.631, "unit": 0.121}
    assert "hypersteer" not in set(published("2b-l10")["method"])
    with pytest.raises(InputError, match=r"'2b-l11'.*2b-l10, 2b-l20"):
        published("2b-l11")


def test_measured_stands_beside_published() -> None:
    measured = summary(
        ("reps", "elicit", 0.7),
        ("own", "elicit", 1.0),
        ("cdas", "elicit", 0.7),
        ("cdas", "suppress", 1.9),
    )
    table = beside(measured, "2b-l10")
    assert list(table["method"])[:4] == ["reps", "own", "cdas", "lang"]
    rows = table.set_index("method")
    assert rows.loc["cdas", "published"] == 0.631
    assert rows.loc["cdas", "difference"] == pytest.approx(0.069)
    assert rows.loc["reps", "difference"] == pytest.approx(-0.056)
    assert rows.loc["cdas", "measured_high"] == pytest.approx(0.8)
    assert math.isnan(rows.loc["own", "published"])
    assert math.isnan(rows.loc["prompt", "measured"])
    assert rows.loc["prompt", "published"] == 0.698
    assert len(table) == len(published("2b-l10")) - 1 + 1  # without unit, with own


def test_a_summary_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="'cdas' twice"):
        beside(summary(("cdas", "elicit", 0.7), ("cdas", "elicit", 0.1)), "2b-l10")
    with pytest.raises(InputError, match="no column score_low"):
        beside(summary(("cdas", "elicit", 0.7)).drop(columns="score_low"), "2b-l10")
