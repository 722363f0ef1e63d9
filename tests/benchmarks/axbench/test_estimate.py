"""The counts before a run follow from the preset."""

from typing import Any

import pytest

from benchmarks.axbench.estimate import estimate, estimate_text
from benchmarks.axbench.presets import PRESETS, find_preset
from concept_das.errors import InputError


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("neutral", ["given", "model", "api"])
def test_every_preset_can_be_estimated(name: str, neutral: Any) -> None:
    preset = PRESETS[name]
    made = estimate(preset, concepts=2, neutral=neutral)
    text = estimate_text(preset, made, concepts=2, neutral=neutral, judge_model="gpt-4o-mini")
    assert all(method in text for method in preset.methods)
    assert ("requests" in text) == (preset.judge == "api" or neutral == "api")


def test_counts_follow_from_the_preset() -> None:
    made = estimate(find_preset("gemma-2-2b-l20"), concepts=3)
    cdas = made.methods.set_index("method").loc["cdas"]
    # 72 rows in batches of 8, 18 epochs; 10 instructions at 16 multipliers of 128 tokens
    assert cdas["steps"] == 3 * 9 * 18
    assert cdas["answers"] == 3 * 10 * 16
    assert cdas["new_tokens"] == 3 * 10 * 16 * 128
    assert made.methods.set_index("method").loc["diffmean", "steps"] == 0
    assert made.requests == 3 * made.methods["answers"].sum()


def test_a_direction_more_is_as_many_answers_again_where_a_method_has_it() -> None:
    preset = find_preset("gemma-2-2b-l20")
    one = estimate(preset, concepts=1).methods.set_index("method")["answers"]
    two = estimate(preset, concepts=1, directions=("elicit", "suppress"))
    both = two.methods.set_index("method")["answers"]
    assert both["cdas"] == 2 * one["cdas"]
    assert both["loreft"] == one["loreft"]


def test_dollars_are_those_of_the_tokens() -> None:
    made = estimate(find_preset("gemma-2-2b-l20"), concepts=1)
    expected = (0.15 * made.prompt_tokens + 0.60 * made.completion_tokens) / 1e6
    assert made.dollars("gpt-4o-mini") == pytest.approx(expected)
    assert made.dollars("some-model") is None
    written = estimate(find_preset("smollm2-135m"), concepts=1, neutral="api")
    assert written.requests == 72
    assert estimate(find_preset("smollm2-135m"), concepts=1).requests == 0


def test_the_small_preset_trains_on_its_rows() -> None:
    table = estimate(find_preset("smollm2-135m"), concepts=5).methods.set_index("method")
    assert table.loc["cdas", "rows"] == 5 * 32
    assert table.loc["cdas", "steps"] == 5 * 4 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concepts": 0}, "concepts is 0"),
        ({"concepts": 1, "rows_per_concept": 0}, "rows_per_concept is 0"),
        ({"concepts": 1, "neutral": "nobody"}, "unknown neutral 'nobody'"),
    ],
)
def test_unusable_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimate(find_preset("gemma-2-2b-l20"), **options)
