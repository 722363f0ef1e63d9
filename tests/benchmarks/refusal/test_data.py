from pathlib import Path

import pandas as pd
import pytest

from benchmarks.detectors.refusals import is_refusal
from benchmarks.organisms.prompts import refusal_prompts
from benchmarks.organisms.recipe import Recipe
from benchmarks.refusal.data import read_data
from concept_das.data.quadruples import Quadruple
from concept_das.data.reading import to_frame
from concept_das.errors import InputError


def rows(count: int, word: str) -> pd.DataFrame:
    return to_frame(
        [Quadruple(f"Bake {word} {i}", "Sure", f"Rob {word} {i}", "I cannot") for i in range(count)]
    )


OURS = ("contrast_train.parquet", "contrast_test_jailbreakbench.parquet")


def write(folder: Path, test: str = "bank", names: tuple[str, str] = OURS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows(4, "shop").to_parquet(folder / names[0])
    rows(3, test).to_parquet(folder / names[1])
    return folder


def test_own_prompts_are_split_as_the_organisms_were() -> None:
    train, sets = read_data(None, None, None)
    assert len(train) == 128
    assert [len(sets[name]) for name in ("harmful", "harmless")] == [40, 40]
    harmful, plain, lookalike = refusal_prompts(Recipe().seed)
    harmless = plain + lookalike
    assert len({row.positive_input for row in train} & set(harmful.train)) == 128
    assert {row.negative_input for row in train} <= set(harmless.train)
    assert set(sets["harmful"]) == set(harmful.heldout)
    assert set(sets["harmless"]) <= set(harmless.heldout)
    assert len(set(lookalike.heldout) & set(sets["harmless"])) == 20


def test_responses_are_openings_that_the_detector_tells_apart() -> None:
    train, _ = read_data(None, None, None)
    assert all(is_refusal(row.positive_output + " do this") for row in train)
    assert not any(is_refusal(row.negative_output + " some ideas") for row in train)
    assert max(len(row.positive_output.split()) for row in train) <= 5


@pytest.mark.parametrize("nested", [False, True])
def test_the_releases_files_are_read(tmp_path: Path, nested: bool) -> None:
    write(tmp_path / "refusal" if nested else tmp_path)
    train, sets = read_data(str(tmp_path), None, None)
    assert [row.positive_input for row in train] == [f"Rob shop {i}" for i in range(4)]
    assert sets["harmless"] == [f"Bake bank {i}" for i in range(3)]
    few, sets = read_data(str(tmp_path), 2, 1)
    assert (few, sets["harmful"]) == (train[:2], ["Rob bank 0"])


@pytest.mark.parametrize("place", ["", "data", "experiments/refusal/data"])
@pytest.mark.parametrize("train", ["contrast_train_data.parquet", "refusal_train_data.parquet"])
def test_the_releases_own_names_and_folders(tmp_path: Path, place: str, train: str) -> None:
    write(tmp_path / place, names=(train, "contrast_test_jailbreakbench_seed=0.parquet"))
    # The release has another file of the same kind beside it.
    rows(2, "other").to_parquet(tmp_path / place / "contrast_train_seed=0.parquet")
    pairs, sets = read_data(str(tmp_path), None, None)
    assert [row.positive_input for row in pairs] == [f"Rob shop {i}" for i in range(4)]
    assert sets["harmless"] == [f"Bake bank {i}" for i in range(3)]


def test_unusable_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match="holds no contrast_train.parquet or contrast_train_data.parquet or .*; give",
    ):
        read_data(str(tmp_path), None, None)
    with pytest.raises(InputError, match="is no folder; give the one that holds"):
        read_data(str(tmp_path / "nowhere"), None, None)
    write(tmp_path, test="shop")
    with pytest.raises(InputError, match="'Rob shop 0' is trained on and also among the harmful"):
        read_data(str(tmp_path), None, None)
