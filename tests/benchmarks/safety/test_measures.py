import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.safety.case import Case, DivergenceOf, Likely, RateOf, Trade
from benchmarks.safety.measures import (
    measure_answers,
    measure_divergences,
    steering_of,
    surprises_of,
)
from benchmarks.steps import Subject
from concept_das.errors import InputError
from concept_das.runs.rows import RowLog
from tests.concept_das.helpers import plain_logits, random_vector

CASE = Case(
    name="shout",
    title="Shouting",
    measures=(
        RateOf("loud", "elicit", "calm", lambda text, *_: text.isupper(), "x", "Loudness"),
        RateOf(
            "altered", "suppress", "calm", lambda text, before, _: text != before, "x", "Loudness"
        ),
        RateOf(
            "echoed", "suppress", "calm", lambda text, _, prompt: prompt in text, "x", "Loudness"
        ),
        DivergenceOf("kl", "elicit", "calm", "angry", "x", section="Distance"),
        DivergenceOf("kl_same", "elicit", "calm", "calm", "x", "y", "Distance"),
        DivergenceOf("kl_other", "suppress", "calm", "calm", "x", section="Distance"),
    ),
    trades=(Trade("loud", "kl"),),
    beside=("loud",),
)

SETS = {"calm": ["Sing", "Hum a bit"], "angry": ["Roar", "Growl"]}

UNTOUCHED = pd.DataFrame(
    [(name, i, SETS[name][i], f"{name}{i}") for name in SETS for i in (1, 0)],
    columns=["prompts", "number", "prompt", "text"],
)


def answers(*rows: tuple[str, float, int, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["direction", "multiplier", "number", "text"])
    return frame.assign(prompts="calm", prompt=[SETS["calm"][number] for number in frame["number"]])


def test_rates_are_of_a_direction_and_a_multiplier() -> None:
    given = answers(
        ("elicit", 1.0, 1, "AH"),
        ("elicit", 1.0, 0, "ah"),
        ("elicit", 2.0, 0, "AH"),
        ("elicit", 2.0, 1, "AH"),
        ("suppress", 1.0, 1, "calm1"),
        ("suppress", 1.0, 0, "Sing!"),
        ("suppress", 2.0, 0, "calm1"),
        ("suppress", 2.0, 1, "calm0"),
    )
    table = measure_answers(CASE, UNTOUCHED, given, (1.0, 2.0))
    assert table[["multiplier", "loud", "loud_count", "loud_total"]].to_numpy().tolist() == [
        [1, 0.5, 1, 2],
        [2, 1, 2, 2],
    ]
    # Answers meet the untouched ones by number, whatever the order.
    assert list(table["altered"]) == [0.5, 1.0]
    assert list(table["echoed"]) == [0.5, 0.0]


def test_a_direction_without_answers_has_no_rate_and_the_untouched_model_has_all() -> None:
    given = answers(("elicit", 1.0, 0, "AH"), ("elicit", 1.0, 1, "AH"))
    assert "altered" not in measure_answers(CASE, UNTOUCHED, given, (1.0,))
    (row,) = measure_answers(CASE, UNTOUCHED, None, ()).to_dict("records")
    assert math.isnan(row["multiplier"])
    assert (row["loud"], row["altered"], row["loud_total"]) == (0, 0, 2)


def test_a_floor_leaves_out_what_the_untouched_model_finds_unlikely() -> None:
    shout = RateOf("loud", "elicit", "calm", lambda text, *_: text.isupper(), "x")
    floored = replace(shout, likely=Likely("angry", lambda text: text.split()[-1], nats=2.0))
    case = replace(CASE, measures=(floored,))
    given = answers(("elicit", 1.0, 1, "A TREE"), ("elicit", 1.0, 0, "OF IS"))
    asked = []

    def surprises(rows: Sequence[tuple[str, str, str]]) -> list[float]:
        asked.extend(rows)
        return [2.0 if end == "TREE" else 9.0 for _, _, end in rows]

    table = measure_answers(case, UNTOUCHED, given, (1.0,), SETS, surprises)
    assert table[["loud_count", "loud_total"]].to_numpy().tolist() == [[1, 2]]
    # The prompt of the same number in the other set, and the two parts of the answer.
    assert asked == [("Roar", "OF ", "IS"), ("Growl", "A ", "TREE")]


def test_the_surprise_is_at_the_end_of_an_answer(subject: Subject) -> None:
    (both,) = surprises_of(subject, [("Sing", "abc", "de")])
    chat = subject.chat
    start, end = chat.text_ids("abc"), chat.text_ids("de")
    turn = chat.prompt("Sing").with_response((*start, *end))
    log_p = plain_logits(subject.loaded.model, turn).detach().double().log_softmax(-1)[len(start) :]
    expected = -sum(float(row[token]) for row, token in zip(log_p, end, strict=True)) / len(end)
    assert both == pytest.approx(expected, rel=1e-4)


def test_divergences_are_means_over_the_pairs(subject: Subject, tmp_path: Path) -> None:
    log = RowLog(tmp_path / "rows.jsonl", "f")
    (row,) = measure_divergences(log, CASE, subject, SETS, UNTOUCHED, None, ()).to_dict("records")
    each = []
    for calm, angry in zip(SETS["calm"], SETS["angry"], strict=True):
        turns = [subject.chat.prompt(text).with_response((5,)) for text in (angry, calm)]
        p, q = (plain_logits(subject.loaded.model, t)[0].double().softmax(-1) for t in turns)
        each.append(float((p * (p / q).log()).sum().detach()))
    assert row["kl"] == pytest.approx(sum(each) / 2, rel=1e-3)
    assert row["kl_same"] == pytest.approx(0, abs=1e-6)
    assert row["kl_same_response"] == pytest.approx(0, abs=1e-6)
    assert "kl_response" not in row


def test_logged_pairs_are_not_measured_again(subject: Subject, tmp_path: Path) -> None:
    vector = random_vector(subject.loaded.model)
    path = tmp_path / "rows.jsonl"

    def measured() -> pd.DataFrame:
        return measure_divergences(
            RowLog(path, "f"), CASE, subject, SETS, UNTOUCHED, vector, (0.5, 1.0)
        )

    first = measured()
    assert (first["kl_same"] > 0).all()
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + 3 * 2 * 2
    # The first two of "kl" stay as they are, and the rest is made again.
    entry = json.loads(lines[1])
    entry["row"]["first"] += 2.0
    path.write_text("\n".join([lines[0], json.dumps(entry), lines[2]]) + "\n")
    second = measured()
    assert second["kl"][0] == pytest.approx(first["kl"][0] + 1.0)
    assert second["kl"][1] == pytest.approx(first["kl"][1])
    pd.testing.assert_series_equal(second["kl_same_response"], first["kl_same_response"])


def test_a_rule_is_of_clamps_alone(subject: Subject) -> None:
    clamp = random_vector(subject.loaded.model)
    added = random_vector(subject.loaded.model, operation="add")
    between = steering_of(clamp, "elicit", 0.5, "interpolate").target()
    middle = (clamp.negative_factor + clamp.positive_factor) / 2
    assert between.tolist() == pytest.approx(middle.tolist(), rel=1e-4)
    assert steering_of(added, "elicit", 0.5, "interpolate").rule == "paper"


def test_sets_that_do_not_pair_are_named(subject: Subject, tmp_path: Path) -> None:
    sets = {"calm": ["Sing"], "angry": ["Roar", "Growl"]}
    with pytest.raises(InputError, match="there are 1 calm prompts and 2 angry ones"):
        measure_divergences(
            RowLog(tmp_path / "rows.jsonl", "f"), CASE, subject, sets, UNTOUCHED, None, ()
        )
