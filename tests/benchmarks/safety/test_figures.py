"""The figures' panels."""

from dataclasses import replace

import pandas as pd

from benchmarks.refusal.case import REFUSAL
from benchmarks.safety.case import Trade
from benchmarks.safety.figures import strength_figure, trade_figure

SUMMARY = pd.DataFrame(
    {
        "method": ["unsteered", "cdas", "cdas"],
        "multiplier": [float("nan"), 1.0, 2.0],
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
    prices = [panel.lines[1].get_xdata().tolist() for panel in trade_figure(CASE, SUMMARY).axes]
    assert prices == [[7.0, 8.0], [0.1, 0.2]]
