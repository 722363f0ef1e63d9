from dataclasses import replace

import pytest

from benchmarks.axbench.plan import plan
from benchmarks.axbench.plan_text import STAGE_TITLES, STAGES
from benchmarks.axbench.presets import PRESETS, find_preset
from benchmarks.axbench.work import Lengths
from benchmarks.hardware import GPUS, Hardware, Share
from benchmarks.judges.prices import PRICES, Price
from concept_das.errors import InputError

A100 = GPUS["A100-80GB"]
HALF = Share(0.5, "a test")


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("neutral", ["given", "model", "api"])
def test_every_preset_is_planned_offline(name: str, neutral: str) -> None:
    made = plan(PRESETS[name], concepts=2, neutral=neutral)  # type: ignore[arg-type]
    text = made.text("A100-80GB", "gpt-4o-mini")
    assert all(method in text for method in PRESETS[name].methods)
    assert all(title in text for title in STAGE_TITLES.values())
    assert all(word in text for word in ("estimate", "data sheet", "assumed"))
    assert set(made.table["stage"]) == set(STAGES)
    assert not made.table.isna().to_numpy().any()
    assert (made.hours(A100, HALF) >= 0).all()


def test_gemma_2_2b_by_hand() -> None:
    """72 rows in batches of 8 are 9 steps an epoch; 18 epochs; 16 factors of 10 instructions."""
    table = plan(find_preset("gemma-2-2b-l20"), concepts=3).table.set_index(["stage", "method"])
    cdas = table.loc["train", "cdas"]
    assert cdas["rows"] == 3 * 72
    assert cdas["steps"] == 3 * 162
    # 4 + 16 + 5 and 4 + 46 + 5 tokens of prompts, 103 of either response
    assert cdas["training_tokens"] == 3 * 72 * 18 * (128 + 158)
    assert table.loc["train", "reps"]["steps"] == 3 * 216
    assert table.loc["train", "loreft"]["steps"] == 3 * 48
    answers = table.loc["generate", "cdas"]
    assert (answers["multipliers"], answers["directions"]) == (16, 1)
    assert answers["answers"] == 3 * 10 * 16
    assert answers["new_tokens"] == 3 * 10 * 16 * 128
    assert table.loc["judge", "cdas"]["requests"] == 3 * 3 * 10 * 16
    assert table.loc["generate", "lora"]["answers"] == 3 * 10


def test_everything_grows_with_the_concepts() -> None:
    preset = find_preset("gemma-2-2b-l10")
    one, ten = (plan(preset, concepts=n).table for n in (1, 10))
    columns = ["rows", "steps", "training_tokens", "answers", "new_tokens", "requests", "flops"]
    assert ten[columns].sum().to_numpy() == pytest.approx(10 * one[columns].sum().to_numpy())


def test_directions_are_those_a_method_has() -> None:
    preset = find_preset("gemma-2-2b-l20")
    table = plan(preset, concepts=1, directions=("elicit", "suppress")).table
    directions = table[table["stage"] == "generate"].set_index("method")["directions"]
    assert directions["cdas"] == 2
    assert directions["lora"] == directions["loreft"] == 1


def test_neutral_responses_cost_only_when_they_are_made() -> None:
    preset = find_preset("gemma-2-2b-l20")
    price = PRICES["gpt-4o-mini"]
    for neutral, hours, dollars in (
        ("given", False, False),
        ("model", True, False),
        ("api", False, True),
    ):
        made = plan(preset, concepts=5, neutral=neutral)  # type: ignore[arg-type]
        data = made.table["stage"] == "data"
        assert bool(made.hours(A100, HALF)[data].sum() > 0) == hours
        assert bool(made.dollars(price)[data].sum() > 0) == dollars


def test_hours_are_the_longer_of_arithmetic_and_memory() -> None:
    made = plan(find_preset("gemma-2-2b-l20"), concepts=1)
    at = made.table.set_index(["stage", "method"]).index.get_loc(("generate", "cdas"))
    row = made.table.iloc[at]
    slow_memory = Hardware("a", 1e30, 1e9, None, 2, "")
    slow_products = Hardware("b", 1e9, 1e30, None, 2, "")
    read = row["decode_steps"] * row["decode_numbers"] * 2 / 0.5e9 / 3600
    assert made.hours(slow_memory, HALF).iloc[at] == pytest.approx(read)
    computed = (row["flops"] + row["decode_steps"] * row["decode_flops"]) / 0.5e9 / 3600
    assert made.hours(slow_products, HALF).iloc[at] == pytest.approx(computed)
    assert made.hours(A100, Share(0.25, "")).sum() == pytest.approx(
        2 * made.hours(A100, HALF).sum()
    )


def test_dollars_are_three_questions_for_each_answer() -> None:
    made = plan(find_preset("gemma-2-2b-l20"), concepts=1)
    judged = made.table[made.table["stage"] == "judge"]
    per_completion = made.dollars(Price(0, 1e6))[judged.index]
    assert per_completion.sum() == pytest.approx(3 * 80 * judged["answers"].sum())
    assert 600 < judged["prompt_tokens"].sum() / judged["answers"].sum() < 1500


def test_a_judge_without_an_endpoint_or_a_price() -> None:
    made = plan(find_preset("smollm2-135m"), concepts=1)
    assert made.dollars(PRICES["gpt-4o-mini"]).sum() == 0
    assert "proxy, which asks no endpoint" in made.text("L4", "gpt-4o-mini")
    text = plan(find_preset("gemma-2-2b-l20"), concepts=1).text("L4", "some-model")
    assert "some-model has no price" in text
    assert "dollars\n" not in text


def test_a_model_that_does_not_fit_is_said() -> None:
    made = plan(find_preset("olmo-2-13b-l20"), concepts=1)
    assert "do not fit" in made.text("L4", "gpt-4o-mini")
    assert "do not fit" not in made.text("H100-80GB", "gpt-4o-mini")


def test_measured_lengths_are_used_and_named() -> None:
    preset = find_preset("gemma-2-2b-l20")
    lengths = Lengths(10, 20, 30, 40, source="measured on 3 rows")
    made = plan(preset, concepts=1, lengths=lengths)
    cdas = made.table.set_index(["stage", "method"]).loc["train", "cdas"]
    assert cdas["training_tokens"] == 72 * 18 * (19 + 40 + 29 + 30)
    assert "measured on 3 rows" in made.text("L4", "gpt-4o-mini")


def test_what_cannot_be_planned_is_named() -> None:
    preset = find_preset("gemma-2-2b-l20")
    with pytest.raises(InputError, match="concepts is 0"):
        plan(preset, concepts=0)
    with pytest.raises(InputError, match="directions is 0"):
        plan(preset, concepts=1, directions=())
    with pytest.raises(InputError, match="given, model or api"):
        plan(preset, concepts=1, neutral="mine")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sizes of no/such"):
        plan(replace(preset, model="no/such"), concepts=1)
    with pytest.raises(InputError, match="TPU"):
        plan(preset, concepts=1).text("TPU", "gpt-4o-mini")
