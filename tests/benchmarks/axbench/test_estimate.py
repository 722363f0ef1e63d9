"""The counts before a run follow from the preset."""

from typing import Any

import pytest

from benchmarks.axbench.estimate import counts, estimate_text, requests
from benchmarks.axbench.presets import PRESETS

LARGE, SMALL = PRESETS["gemma-2-2b-l20"], PRESETS["smollm2-135m"]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("neutral", ["model", "api"])
def test_every_preset_can_be_estimated(name: str, neutral: Any) -> None:
    preset = PRESETS[name]
    text = estimate_text(preset, 2, neutral, "gpt-4o-mini")
    assert all(method in text for method in preset.methods)
    assert ("requests" in text) == (preset.judge == "api" or neutral == "api")


def test_counts_follow_from_the_preset() -> None:
    table = counts(LARGE, 3).set_index("method")
    cdas = table.loc["cdas"]
    # 72 rows in batches of 8, 18 epochs; 10 instructions at 16 multipliers of 128 tokens, two ways
    assert cdas["steps"] == 3 * 9 * 18
    assert cdas["answers"] == 3 * 10 * 16 * 2
    assert cdas["new_tokens"] == cdas["answers"] * 128
    assert table.loc["diffmean", "steps"] == 0
    assert table.loc["loreft", "answers"] == 3 * 10  # it has one direction and no strength
    assert requests(LARGE, 3, "model")[0] == 3 * table["answers"].sum()
    # the untouched model answers too, both ways
    assert table.loc["unsteered", "answers"] == 3 * 10 * 2
    away = counts(LARGE, 3, directions=["elicit"]).set_index("method")["answers"]
    assert away["cdas"] == 3 * 10 * 16


def test_dollars_are_those_of_the_tokens() -> None:
    _, tokens_in, tokens_out = requests(LARGE, 1, "model")
    dollars = (0.15 * tokens_in + 0.60 * tokens_out) / 1e6
    assert f"about ${dollars:,.2f} at" in estimate_text(LARGE, 1, "model", "gpt-4o-mini")
    assert "of unknown price at some-model" in estimate_text(LARGE, 1, "model", "some-model")
    assert requests(SMALL, 1, "api")[0] == 32  # the rows of the preset, not all 72
    assert requests(SMALL, 1, "api", given=True)[0] == 0
    assert requests(SMALL, 1, "model") == (0, 0, 0)


def test_neutral_responses_that_the_data_have_are_not_written() -> None:
    assert "given by the data" in estimate_text(LARGE, 2, "api", "gpt-4o-mini", given=True)
    assert "144 to be written by the api" in estimate_text(LARGE, 2, "api", "gpt-4o-mini")


def test_the_small_preset_trains_on_its_rows() -> None:
    table = counts(SMALL, 5).set_index("method")
    assert table.loc["cdas", "rows"] == 5 * 32
    assert table.loc["cdas", "steps"] == 5 * 4 * 4
