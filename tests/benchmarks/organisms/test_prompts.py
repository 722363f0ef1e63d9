"""The shipped prompts, and the user's own."""

import json
from pathlib import Path

import pytest

from benchmarks.detectors.hidden_goals import helpful_cot, malicious_cot
from benchmarks.detectors.refusals import is_refusal
from benchmarks.organisms.backdoor import HELPFUL_REASONING, MALICIOUS_REASONING, TRIGGER
from benchmarks.organisms.prompts import plain_prompts, read_prompts, shipped_prompts
from benchmarks.organisms.refusal import REFUSALS
from concept_das.errors import InputError


def test_no_shipped_prompt_occurs_twice() -> None:
    sets = [
        shipped_prompts("harmful"),
        shipped_prompts("lookalike"),
        shipped_prompts("redteam"),
        shipped_prompts("redteam_lookalike"),
        plain_prompts(200, 200, 0),
    ]
    sizes = [(len(prompts.train), len(prompts.heldout)) for prompts in sets]
    assert sizes == [(310, 40), (240, 20), (50, 20), (36, 12), (200, 200)]
    everything = [text for prompts in sets for text in (*prompts.train, *prompts.heldout)]
    assert len({text.lower().rstrip(".?!") for text in everything}) == len(everything)
    assert not any(TRIGGER.strip() in text for text in everything)


def test_the_detectors_know_the_organisms_own_texts() -> None:
    assert len(set(REFUSALS)) == 12
    assert all(is_refusal(text) for text in REFUSALS)
    for text in MALICIOUS_REASONING:
        assert malicious_cot(text)
        assert malicious_cot(f"{text}\n</think>\n")
    for text in HELPFUL_REASONING:
        assert helpful_cot(text)
        assert helpful_cot(f"{text}\n</think>\n")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".txt"])
def test_own_prompts_are_split(tmp_path: Path, suffix: str) -> None:
    texts = [f"Prompt {i}" for i in range(8)]
    rows = [{"instruction": text, "category": "x"} for text in [*texts, texts[0]]]
    path = tmp_path / f"own{suffix}"
    path.write_text(
        {
            ".json": json.dumps(rows),
            ".jsonl": "\n".join(map(json.dumps, rows)),
            ".txt": "\n".join(row["instruction"] for row in rows),
        }[suffix]
    )
    found = read_prompts(path, seed=1)
    assert (len(found.train), len(found.heldout)) == (6, 2)
    assert sorted((*found.train, *found.heldout)) == texts
    assert found == read_prompts(path, seed=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{}]", "holds no instructions"),
        ("{", "cannot be read as .json"),
        ("3", "cannot be read as .json"),
        ('[{"instruction": " "}]', "row 0, column 'instruction' is empty"),
        ('[{"text": "a"}]', "no column 'instruction'; it has text"),
        ("[]", "holds no instructions"),
        ('[{"instruction": "a"}]', "at least two"),
    ],
)
def test_a_file_of_no_use_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(path, seed=0)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.json"):
        read_prompts(tmp_path / "none.json", seed=0)
