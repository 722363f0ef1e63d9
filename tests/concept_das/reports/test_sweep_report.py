"""The report of a sweep: averages, summary and heat map."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from concept_das.reports.heatmap import heatmap
from concept_das.reports.results import write_sweep
from concept_das.reports.tables import average_cells


def table_of(cells: dict[tuple[int, int, int, float], tuple[float, float]]) -> pd.DataFrame:
    """{(layer, rank, seed, multiplier): (elicitation recovery, suppression recovery)}."""
    return pd.DataFrame(
        {
            "layer": layer,
            "rank": rank,
            "seed": seed,
            "multiplier": multiplier,
            "method": "cdas",
            "concept_id": 3,
            "concept": "Pirate",
            "parameters": 10 * rank,
            "elicitation_recovery": elicit,
            "elicitation_recovery_low": elicit - 0.1,
            "elicitation_recovery_high": elicit + 0.1,
            "suppression_recovery": suppress,
            "suppression_recovery_low": suppress - 0.1,
            "suppression_recovery_high": suppress + 0.1,
            "heldout_jsd_elicit": 0.5 - elicit / 4,
            "heldout_jsd_suppress": 0.25,
            "kl_side_effect_elicit": 0.01 * multiplier + 0.001 * layer,
            "kl_side_effect_suppress": 0.03 * multiplier,
            "seconds": 2.0,
        }
        for (layer, rank, seed, multiplier), (elicit, suppress) in cells.items()
    )


CELLS = {
    (12, 4, 1, 1.0): (0.5, 0.2), (12, 4, 1, 2.0): (0.7, 0.1),
    (12, 4, 2, 1.0): (0.5, 0.4), (12, 4, 2, 2.0): (0.9, -0.3),
    (8, 1, 1, 1.0): (0.6, 0.5), (8, 1, 1, 2.0): (-2.0, 0.7),
    (8, 1, 2, 1.0): (0.7, 0.6), (8, 1, 2, 2.0): (0.9, 0.9),
}  # fmt: skip


def test_each_cell_at_the_multiplier_with_the_best_mean() -> None:
    averages = average_cells(table_of(CELLS))
    assert averages[["layer", "rank", "seeds"]].to_numpy().tolist() == [[8, 1, 2], [12, 4, 2]]
    low, high = averages.iloc[0], averages.iloc[1]
    assert (low["multiplier_elicit"], low["multiplier_suppress"]) == (1.0, 2.0)
    assert (high["multiplier_elicit"], high["multiplier_suppress"]) == (2.0, 1.0)
    assert low["elicitation_recovery"] == pytest.approx(0.65)
    assert low["suppression_recovery"] == pytest.approx(0.8)
    assert high["elicitation_recovery"] == pytest.approx(0.8)
    assert high["suppression_recovery"] == pytest.approx(0.3)
    assert high["kl_side_effect_elicit"] == pytest.approx(0.032)
    assert low["kl_side_effect_suppress"] == pytest.approx(0.06)
    assert high["heldout_jsd_elicit"] == pytest.approx(0.3)
    assert (high["parameters"], high["seconds"]) == (40, 2.0)


def test_the_summary_names_the_best(tmp_path: Path) -> None:
    table = table_of(CELLS)
    text = write_sweep(tmp_path, table, "cdas on x").read_text()
    elicit, suppress, both = (line for line in text.splitlines() if line.startswith("- "))
    assert "layer 12, rank 4, multiplier 2: recovery 0.800 (oracle)" in elicit
    assert "JSD 0.300, side effect 0.032" in elicit
    assert "0.600 to 1.000; of the other 1 pairs of layer and rank, 1 come" in elicit
    assert "layer 8, rank 1, multiplier 2: recovery 0.800 (oracle)" in suppress
    assert "0.600 to 1.000; of the other 1 pairs of layer and rank, 0 come" in suppress
    assert "layer 8, rank 1: 0.650 and 0.800" in both
    assert "same rows" in text
    assert text.count("\n| 8 | 1 |") == text.count("\n| 12 | 4 |") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "summary.md", "heatmap.png"}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv"), table)
    assert (tmp_path / "heatmap.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_shows_fixed_fair_and_oracle_recovery(tmp_path: Path) -> None:
    table = table_of(CELLS).assign(elicitation_recovery_fair=0.25, gap_elicit=1.5)
    text = write_sweep(tmp_path, table, "x").read_text()
    assert "recovery 0.800 (oracle), gap 1.5, held-out JSD" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    shown = dict(zip(rows[0], rows[3], strict=True))  # layer 12, rank 4
    found = [shown[f"elicitation recovery {kind}"] for kind in ("at 1", "fair", "oracle")]
    assert found == ["0.5", "0.25", "0.8"]
    assert (shown["multiplier elicit"], shown["gap elicit"]) == ("2", "1.5")
    assert "suppression recovery fair" not in shown


def test_without_a_clear_gap_there_is_nothing_to_choose_by(tmp_path: Path) -> None:
    table = table_of(CELLS).assign(gap_elicit=-0.5, gap_suppress=1.0)
    table = table.assign(elicitation_recovery=math.nan, elicitation_recovery_low=math.nan)
    text = write_sweep(tmp_path, table, "x").read_text()
    assert "no clear effect on the held-out rows of concept 3 (elicit)" in text
    assert "- **elicit**: there is no recovery to choose by." in text
    assert "**suppress**: layer 8, rank 1, multiplier 2: recovery 0.800" in text


def test_a_method_that_steers_one_way_and_no_side_effect(tmp_path: Path) -> None:
    table = table_of(CELLS).assign(suppression_recovery=math.nan, elicitation_recovery_low=math.nan)
    table = table.drop(columns=["kl_side_effect_elicit", "kl_side_effect_suppress"])
    text = write_sweep(tmp_path, table, "x").read_text()
    elicit, suppress = (line for line in text.splitlines() if line.startswith("- "))
    assert elicit.endswith("held-out JSD 0.300.")
    assert suppress == "- **suppress**: the method does not steer this way."
    header = next(line for line in text.splitlines() if line.startswith("| layer"))
    assert "suppression" not in header
    assert "side effect" not in header


def test_the_heat_map_prints_every_value() -> None:
    table = table_of({(n, 5 - k, s, m): cell for (n, k, s, m), cell in CELLS.items()})
    axes = heatmap(average_cells(table)).axes[:4]
    dash = "\N{EN DASH}"  # layers 8 and 12 side by side, rank 1 below rank 4
    printed = [[text.get_text() for text in panel.texts] for panel in axes]
    assert printed == [
        [dash, "0.80\nat 2", "0.65\nat 1", dash],
        [dash, "0.30\nat 1", "0.80\nat 2", dash],
        [dash, "0.032", "0.018", dash],
        [dash, "0.03", "0.06", dash],
    ]
    for panel, place in zip(axes, [(1, 0), (0, 1)] * 2, strict=True):
        assert [tick.get_text() for tick in panel.get_xticklabels()] == ["8", "12"]
        assert [tick.get_text() for tick in panel.get_yticklabels()] == ["1", "4"]
        (frame,) = [patch for patch in panel.patches if not patch.get_fill()]
        assert tuple(np.round(frame.get_xy())) == place
