import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.chat_format import Turn
from concept_das.data.encoding import encode_quadruples
from concept_das.data.shipped import read_resource
from concept_das.errors import InputError, VectorMismatchError
from concept_das.evaluation import recovery as evaluation
from concept_das.evaluation.recovery import (
    RECOVERY,
    Evaluation,
    evaluate,
    recovery,
    unrelated_turns,
)
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.steering.factors import measure_latents
from concept_das.steering.vector import ModelIdentity, SteeringVector
from concept_das.training.vectors import train_vector
from concept_das.words import DIRECTIONS
from tests.concept_das.helpers import (
    EVERY_ARCHITECTURE,
    PLANTED_ROWS,
    ROWS,
    block_of,
    encoded_rows,
    hooked,
    plain_jsd,
    plain_logits,
    planted_model,
    random_vector,
    tiny_chat,
    tiny_loaded,
)
from tests.tiny import WIDTH, tiny_model


def unrelated() -> list[Turn]:
    chat = tiny_chat()
    return [
        chat.prompt(text).with_response(chat.text_ids(answer))
        for text, answer in (("Count", "1, 2, 3"), ("What is rain?", "Water."), ("Bye", "See you"))
    ]


def measured(model: PreTrainedModel, vector: SteeringVector, **options: Any) -> Evaluation:
    options = {"multipliers": (0.5, 1.0), "unrelated": unrelated(), "batch_size": 2, **options}
    heldout = options.pop("heldout", encoded_rows())
    return evaluate(model, tiny_chat(), vector, heldout, **options)


def by_hand(logits: Tensor, response: Sequence[int]) -> float:
    log_p = logits.double().log_softmax(-1)
    return float(log_p[torch.arange(len(response)), torch.tensor(response)].mean())


@EVERY_ARCHITECTURE
@pytest.mark.parametrize("rule", ["paper", "interpolate"])
@torch.no_grad()
def test_one_row_by_hand(architecture: str, rule: Any) -> None:
    model = tiny_model(architecture)
    vector, row = random_vector(model, rank=2), encoded_rows()[2]
    rows = measured(model, vector, rule=rule).rows
    for direction, here, there in (
        ("elicit", vector.negative_factor, vector.positive_factor),
        ("suppress", vector.positive_factor, vector.negative_factor),
    ):
        factor = 0.5 * there if rule == "paper" else here + 0.5 * (there - here)
        pair = getattr(row, direction)

        def clamp(
            hidden: Tensor, factor: Tensor = factor, prefix: int = pair.base.prompt.prefix_length
        ) -> Tensor:
            rest = hidden[:, prefix:]
            moved = rest + (factor - rest @ vector.weight.T) @ vector.weight
            return torch.cat([hidden[:, :prefix], moved], 1)

        base, teacher = plain_logits(model, pair.base), plain_logits(model, pair.source)
        with hooked(block_of(model, vector.layer), clamp):
            steered = plain_logits(model, pair.base)
            turn = unrelated()[1]
            steered_elsewhere = plain_logits(model, turn)
        response = pair.base.response
        found = rows[
            (rows["kind"] == "heldout")
            & (rows["row"] == 2)
            & (rows["direction"] == direction)
            & (rows["multiplier"] == 0.5)
        ].iloc[0]
        assert found["ll_base"] == pytest.approx(by_hand(base, response), abs=1e-4)
        assert found["ll_teacher"] == pytest.approx(by_hand(teacher, response), abs=1e-4)
        assert found["ll_steered"] == pytest.approx(by_hand(steered, response), abs=1e-3)
        assert found["jsd"] == pytest.approx(float(plain_jsd(steered, teacher).mean()), abs=1e-4)

        p = plain_logits(model, turn).double().log_softmax(-1)
        q = steered_elsewhere.double().log_softmax(-1)
        kl = float((p.exp() * (p - q)).sum(-1).mean())
        found = rows[
            (rows["kind"] == "unrelated")
            & (rows["row"] == 1)
            & (rows["direction"] == direction)
            & (rows["multiplier"] == 0.5)
        ].iloc[0]
        assert found["kl"] == pytest.approx(kl, abs=1e-3)


def test_the_table_summarises_the_rows() -> None:
    model = tiny_model()
    result = measured(model, random_vector(model), multipliers=(2.0, 0.5))
    assert result.table["multiplier"].tolist() == [0.5, 2.0]
    held = result.rows[result.rows["kind"] == "heldout"]
    assert len(held) == len(encoded_rows()) * 2 * 2
    for direction, name in (
        ("elicit", "elicitation_recovery"),
        ("suppress", "suppression_recovery"),
    ):
        own = held[(held["direction"] == direction) & (held["multiplier"] == 2.0)]
        row = result.at(2.0)
        base, steered, teacher = (own[f"ll_{n}"].mean() for n in ("base", "steered", "teacher"))
        assert row[f"gap_{direction}"] == pytest.approx(teacher - base)
        assert row[f"gain_{direction}"] == pytest.approx(steered - base)
        if row[f"gap_{direction}_low"] > 0:
            assert row[name] == pytest.approx((steered - base) / (teacher - base))
        else:
            assert math.isnan(row[name])
        assert row[f"heldout_jsd_{direction}"] == pytest.approx(own["jsd"].mean())
        text = result.rows[result.rows["kind"] == "unrelated"]
        own = text[(text["direction"] == direction) & (text["multiplier"] == 2.0)]
        assert len(own) == len(unrelated())
        assert row[f"kl_side_effect_{direction}"] == pytest.approx(own["kl"].mean())
    mean = (row["kl_side_effect_elicit"] + row["kl_side_effect_suppress"]) / 2
    assert row["kl_side_effect"] == pytest.approx(mean)


def test_a_vector_that_does_all_and_one_that_does_nothing() -> None:
    """On the model whose concept is one known coordinate, the scale of recovery is known."""
    model, rows = planted_model(), encoded_rows(rows=PLANTED_ROWS)
    right = torch.eye(WIDTH)[:1]
    latents = measure_latents(model, find_site(model, 0), right, rows)
    vector = SteeringVector(
        weight=right,
        negative_factor=latents.negative_factor,
        positive_factor=latents.positive_factor,
        layer=0,
        model=ModelIdentity.of(model),
        prefix_length=len(tiny_chat().prefix),
    )
    table = measured(
        model, vector, heldout=rows, rule="interpolate", multipliers=(0.0, 1.0)
    ).table.set_index("multiplier")
    for direction in DIRECTIONS:
        gap = table.loc[0.0, f"gap_{direction}"]
        assert table.loc[0.0, f"gain_{direction}"] / gap == pytest.approx(0.0, abs=0.15)
        assert table.loc[1.0, f"gain_{direction}"] / gap == pytest.approx(1.0, abs=0.15)
    assert table.loc[1.0, "heldout_jsd_elicit"] < 0.1 * table.loc[0.0, "heldout_jsd_elicit"]
    wrong = replace(vector, weight=torch.eye(WIDTH)[3:4])
    other = measured(model, wrong, heldout=rows, rule="interpolate", multipliers=(1.0,)).at(1.0)
    assert other["heldout_jsd_elicit"] > 3 * table.loc[1.0, "heldout_jsd_elicit"]


def test_no_side_effect_without_an_effect() -> None:
    model = tiny_model()
    vector = random_vector(model, operation="add")
    table = measured(model, vector, multipliers=(0.0, 1.0)).table
    assert table["kl_side_effect"][0] == pytest.approx(0.0, abs=1e-6)
    assert table["gain_elicit"][0] == pytest.approx(0.0, abs=1e-6)
    assert table["kl_side_effect"][1] > 0.01


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_change_nothing(batch_size: int) -> None:
    model = tiny_model("gemma2")
    vector = random_vector(model)
    expected = measured(model, vector).table
    found = measured(model, vector, batch_size=batch_size).table
    pd.testing.assert_frame_equal(found, expected, rtol=1e-2, atol=1e-4)


def test_recovery_by_hand() -> None:
    base = np.array([-3.0, -5.0, -4.0])
    steered, teacher = np.array([-2.0, -3.4, -3.2]), np.array([-1.0, -2.8, -2.2])
    value, low, high = recovery(base, steered, teacher)
    assert value == pytest.approx((1.0 + 1.6 + 0.8) / (2.0 + 2.2 + 1.8))
    assert 0 < low < value < high < 1
    assert recovery(base, teacher, teacher) == pytest.approx((1.0, 1.0, 1.0))
    assert recovery(base, base, teacher)[0] == 0.0
    assert recovery(base, base - 1.0, teacher)[0] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    "gap",
    [
        [-1.0, -1.1, -0.9, -1.0],  # the prompt makes the responses less likely
        [1.0, -1.0, 2.0, 0.5],  # it may do nothing
        [1.0, 0.7],  # two rows say little
        [1.0],
        [],
    ],
)
def test_there_is_no_recovery_of_a_gap_that_is_not_clear(gap: list[float]) -> None:
    base = np.full(len(gap), -3.0)
    assert np.isnan(recovery(base, base + 0.5, base + np.array(gap))).all()


def test_two_rows_that_agree_have_a_recovery() -> None:
    base, teacher = np.array([-3.0, -3.0]), np.array([-2.0, -1.9])
    assert recovery(base, base + 0.5, teacher)[0] == pytest.approx(0.5 / 1.05)


def test_intervals_hold_the_value() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(-4, 0.3, 30)
    teacher = base + rng.normal(2, 0.3, 30)
    steered = base + rng.normal(1, 0.3, 30)
    value, low, high = recovery(base, steered, teacher)
    assert low < value < high
    assert value == pytest.approx(0.5, abs=0.1)
    assert high - low < 0.3


def held_rows(
    gains: dict[tuple[int, float], float], gap: float = 1.0, direction: str = "elicit"
) -> list[dict[str, Any]]:
    """Held-out rows by number and multiplier; the divergence is the gain."""
    return [
        {
            "kind": "heldout",
            "row": row,
            "direction": direction,
            "multiplier": m,
            "ll_base": -2.0,
            "ll_teacher": -2.0 + gap,
            "ll_steered": -2.0 + gain,
            "jsd": gain,
        }
        for (row, m), gain in gains.items()
    ]


def unrelated_rows(*multipliers: float, direction: str = "elicit") -> list[dict[str, Any]]:
    """A text whose side effect is the multiplier."""
    return [
        {"kind": "unrelated", "row": 0, "direction": direction, "multiplier": m, "kl": m}
        for m in multipliers
    ]


def evaluation_of(rows: list[dict[str, Any]]) -> Evaluation:
    frame = pd.DataFrame(rows)
    return Evaluation(evaluation._summarise(frame), frame)


def test_an_unclear_gap_is_said_once_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The prompts of this model change the likelihood of the responses in no clear direction."""
    model = planted_model()
    rows = encoded_rows(rows=PLANTED_ROWS)
    result = measured(model, random_vector(model), heldout=rows, multipliers=(0.5, 1.0))
    (message,) = [record.getMessage() for record in caplog.records]
    assert "recovery is NaN where the prompt's own effect is not clear" in message
    table = result.table
    for direction, name in RECOVERY.items():
        gap, low, high = (
            f"{table[f'gap_{direction}{end}'][0]:.3g}" for end in ("", "_low", "_high")
        )
        assert f"{direction} {gap} ({low} to {high})" in message
        assert table[[name, f"{name}_low", f"{name}_high"]].isna().all(axis=None)
        assert table[[f"gain_{direction}", f"heldout_jsd_{direction}"]].notna().all(axis=None)
        headline = result.headline()
        assert math.isnan(headline[name])
        assert headline[f"gap_{direction}"] == table[f"gap_{direction}"][0]
        assert headline[f"multiplier_{direction}_oracle"] in (0.5, 1.0)


def test_a_clear_gap_is_no_matter_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    gains = {(row, 1.0): 0.5 for row in range(4)}
    rows = held_rows(gains) + held_rows(gains, gap=-1.0, direction="suppress")
    evaluation._warn_of_gaps(evaluation_of(rows).table, 4)
    assert "over 4 rows: suppress -1 (-1 to -1);" in caplog.text
    caplog.clear()
    evaluation._warn_of_gaps(evaluation_of(rows[:4]).table, 4)  # it cannot suppress
    assert not caplog.text


@pytest.mark.parametrize("gap", [1.0, -1.0])
def test_the_best_multiplier_of_each_direction(gap: float) -> None:
    """Also where the prompt has no effect to recover."""
    gains = {(row, m): g for row in range(4) for m, g in ((0.5, 0.1), (1.0, 0.7), (2.0, 0.3))}
    result = evaluation_of(held_rows(gains, gap))
    assert result.best("elicit")["multiplier"] == 1.0
    assert result.best("elicit")["gain_elicit"] == pytest.approx(0.7)
    assert math.isnan(result.best("suppress")["suppression_recovery"])
    expected = 0.3 if gap > 0 else math.nan
    assert result.at(2.0)["elicitation_recovery"] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("unrelated", "tried"), [(True, True), (False, False)])
def test_the_headline_says_what_was_chosen_on_which_rows(unrelated: bool, tried: bool) -> None:
    """Rows of even number gain most at 1, those of odd number at 2, where the best mean is."""
    one = 1.0 if tried else 1.25
    gains = {
        (row, m): (0.5 if m == one else 0.3) if row % 2 == 0 else (0.1 if m == one else 0.6)
        for row in range(4)
        for m in (one, 2.0)
    }
    rows = held_rows(gains) + (unrelated_rows(one, 2.0) if unrelated else [])
    expected = {
        "elicitation_recovery": pytest.approx(0.2),  # (0.3 + 0.1) / 2
        "heldout_jsd_elicit": pytest.approx(0.2),
        "multiplier_elicit": (one + 2) / 2,
        "elicitation_recovery_oracle": pytest.approx(0.45),  # (0.3 + 0.6) / 2
        "multiplier_elicit_oracle": 2.0,
        "gap_elicit": 1.0,
        "gap_elicit_low": 1.0,
        "gap_elicit_high": 1.0,
    }
    if tried:
        expected["elicitation_recovery_at_1"] = pytest.approx(0.3)
    if unrelated:
        expected |= dict.fromkeys(("kl_side_effect_elicit", "kl_side_effect"), (one + 2) / 2)
    assert evaluation_of(rows).headline() == expected


def test_one_row_has_a_headline_without_fair_measures() -> None:
    headline = evaluation_of(held_rows({(0, 1.0): 0.5, (0, 2.0): 0.6})).headline()
    assert headline["multiplier_elicit_oracle"] == 2.0
    assert headline["gap_elicit"] == 1.0
    for name in ("elicitation_recovery", "multiplier_elicit", "heldout_jsd_elicit"):
        assert math.isnan(headline[name])


class _Stop(Exception):
    pass


def counting(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[str]:
    """Notes the batches that are measured, and interrupts the n-th."""
    calls: list[str] = []
    for name in ("heldout", "unrelated"):
        original = getattr(evaluation._Measurement, name)

        def measure(
            self: Any, chunk: Any, name: str = name, original: Any = original
        ) -> list[dict[str, Any]]:
            if len(calls) == stop_after:
                raise _Stop
            calls.append(f"{name} {chunk[0][0]}")
            return list(original(self, chunk))

        monkeypatch.setattr(evaluation._Measurement, name, measure)
    return calls


@pytest.mark.parametrize("stop_after", [0, 2, 3, 4])
def test_an_interrupted_evaluation_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    model = tiny_model()
    vector, partial = random_vector(model), tmp_path / "partial.json"
    expected = measured(model, vector)
    with monkeypatch.context() as patch:
        before = counting(patch, stop_after)
        with pytest.raises(_Stop):
            measured(model, vector, partial=partial)
    with monkeypatch.context() as patch:
        after = counting(patch)
        result = measured(model, vector, partial=partial)
    assert before + after == ["heldout 0", "heldout 2", "heldout 4", "unrelated 0", "unrelated 2"]
    pd.testing.assert_frame_equal(result.table, expected.table, check_exact=True)
    pd.testing.assert_frame_equal(result.rows, expected.rows, check_exact=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"multipliers": (0.5, 2.0)},
        {"rule": "interpolate"},
        {"batch_size": 3},
        {"heldout": encoded_rows(4)},
        {"unrelated": unrelated()[:2]},
        {"vector": random_vector(tiny_model(), seed=4)},
        {"vector": random_vector(tiny_model(), operation="add")},
        {"vector": random_vector(tiny_model(), prefix_length=0)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_partial_file_of_another_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    model, partial = tiny_model(), tmp_path / "partial.json"
    measured(model, random_vector(model), partial=partial)
    arguments = {"vector": random_vector(model), **changes}
    calls = counting(monkeypatch)
    result = measured(model, partial=partial, **arguments)
    work = len(calls)
    calls.clear()
    expected = measured(model, **arguments)
    assert work == len(calls)  # all of it was measured anew
    pd.testing.assert_frame_equal(result.table, expected.table, check_exact=True)


def test_unusable_evaluations() -> None:
    model = tiny_model()
    vector = random_vector(model)
    with pytest.raises(InputError, match="no held-out rows"):
        measured(model, vector, heldout=[])
    with pytest.raises(InputError, match="at least one multiplier"):
        measured(model, vector, multipliers=())
    with pytest.raises(VectorMismatchError):
        measured(tiny_model(seed=1), vector)


def test_without_unrelated_text_there_is_no_side_effect_to_report() -> None:
    model = tiny_model()
    table = measured(model, random_vector(model), unrelated=[]).table
    assert not [name for name in table.columns if "side_effect" in name]
    assert table["gain_elicit"].notna().all()


def test_the_shipped_unrelated_text_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    rows = measured(model, random_vector(model), unrelated=None, multipliers=(1.0,)).rows
    assert (rows["kind"] == "unrelated").sum() == 16 * len(DIRECTIONS)
    turns = unrelated_turns(tiny_chat(), 3)
    shipped = read_resource("unrelated")[:3]
    assert [turn.response for turn in turns] == [
        tiny_chat().text_ids(row["response"]) for row in shipped
    ]


def test_fair_measures_use_a_multiplier_that_other_rows_chose() -> None:
    """Rows 0 and 2 gain most at 1, rows 1 and 3 at 2: each half gets what the other half chose."""
    gains = {
        (row, m): 0.5 if (row % 2 == 0) == (m == 1.0) else 0.1
        for row in range(4)
        for m in (1.0, 2.0)
    }
    rows = held_rows(gains) + unrelated_rows(1.0, 2.0)
    found = evaluation_of(rows)
    assert found.fair("elicit") == {
        "elicitation_recovery": pytest.approx(0.1),
        "heldout_jsd_elicit": pytest.approx(0.1),
        "kl_side_effect_elicit": pytest.approx(1.5),
        "multiplier_elicit": pytest.approx(1.5),
    }
    assert all(np.isnan(value) for value in found.fair("suppress").values())


def test_both_directions_of_a_text_are_one_unit_of_the_side_effect() -> None:
    """A text with 0 in one direction and 2 in the other has 1: nothing to draw from is left."""
    rows = [
        {"kind": "unrelated", "row": row, "direction": direction, "multiplier": 1.0, "kl": value}
        for row in range(5)
        for direction, value in (("elicit", 0.0), ("suppress", 2.0))
    ]
    held = {"kind": "heldout", "row": 0, "multiplier": 1.0, "jsd": 0.1}
    held |= {"ll_base": -2.0, "ll_steered": -1.5, "ll_teacher": -1.0}
    rows += [{**held, "direction": direction} for direction in DIRECTIONS]
    table = evaluation._summarise(pd.DataFrame(rows)).iloc[0]
    assert table["kl_side_effect"] == table["kl_side_effect_low"] == 1.0
    assert table["kl_side_effect_high"] == 1.0


def test_rows_of_text_are_encoded_as_in_training() -> None:
    loaded, chat = tiny_loaded(), tiny_chat()
    config = TrainingConfig(epochs=1, max_response_tokens=3)
    vector = train_vector(loaded, chat, ROWS[:2], [], 1, config).vector
    encoded = encode_quadruples(ROWS[2:], chat, max_response_tokens=3)
    expected, found = (
        evaluate(loaded.model, chat, vector, rows, multipliers=(1.0,), unrelated=[])
        for rows in (encoded, list(ROWS[2:]))
    )
    pd.testing.assert_frame_equal(found.rows, expected.rows)
