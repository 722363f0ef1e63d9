"""The figures' panels."""

from dataclasses import replace

import pandas as pd
import pytest

from benchmarks.refusal.case import REFUSAL
from benchmarks.safety.case import Trade
from benchmarks.safety.figures import strength_figure, trade_figure

SUMMARY = pd.DataFrame(
    {
        "method": ["unsteered", "cdas", "cdas"],
        "multiplier": [float("nan"), 1.0, 2.0],
        "seeds": [1, 1, 1],
        "suppression": [0.1, 0.7, 0.9],
        "suppression_low": [0.0, 0.6, 0.8],
        "suppression_high": [0.2, 0.8, 1.0],
        "kl_suppression": [9.0, 7.0, 8.0],
        "kl_side_effect_response": [0.0, 0.1, 0.2],
    }
)
CASE = replace(
    REFUSAL,
    trades=(
        Trade("suppression", "kl_suppression"),
        Trade("suppression", "kl_side_effect_response"),
    ),
)


def test_a_rate_with_two_prices_is_drawn_once_by_strength_and_twice_by_price() -> None:
    (axes,) = strength_figure(CASE, SUMMARY).axes
    line, base = axes.lines
    assert line.get_xydata().tolist() == [[1, 0.7], [2, 0.9]]
    assert set(base.get_ydata()) == {0.1}
    assert axes.get_ylabel() == "suppression (bars: 95%)"
    prices = [panel.lines[1].get_xdata().tolist() for panel in trade_figure(CASE, SUMMARY).axes]
    assert prices == [[7.0, 8.0], [0.1, 0.2]]


def test_bars_of_several_seeds_are_their_spread() -> None:
    seeds = SUMMARY.assign(seeds=[1, 3, 3], suppression_sd=[float("nan"), 0.05, 0.02])
    seeds[["suppression_low", "suppression_high"]] = float("nan")
    (axes,) = strength_figure(CASE, seeds).axes
    assert axes.get_ylabel() == "suppression (± sd of seeds)"
    first, _ = axes.collections[0].get_segments()
    assert first[:, 1].tolist() == [pytest.approx(0.65), pytest.approx(0.75)]
