import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.axbench.data import AxBenchData, open_data
from concept_das.data.axbench_file import read_axbench
from concept_das.data.reading import quadruples_from_frame
from concept_das.errors import InputError
from tests.benchmarks.axbench.files import (
    alpaca,
    contrastive_frame,
    latent_frame,
    train_frame,
    write_folder,
)

TRAIN = "concept10_2b_l20_train"
LATENT = "concept10_2b_l20_latent_eval"


def opened(folder: Path, **frames: pd.DataFrame | None) -> AxBenchData:
    return open_data(str(write_folder(folder, **frames)))


@pytest.fixture
def data(tmp_path: Path) -> AxBenchData:
    return opened(tmp_path, **{LATENT: latent_frame(), "contrastive": contrastive_frame()})


def test_concepts_are_those_of_the_training_file(data: AxBenchData, tmp_path: Path) -> None:
    assert data.concept_ids == (0, 1, 4)
    for concept_id in data.concept_ids:
        expected = read_axbench(tmp_path / f"{TRAIN}.parquet", concept_id)
        assert data.concept(concept_id) == expected
    assert len(data.sha256) == 4


def test_negatives_are_the_shared_outputs_of_the_same_genre(data: AxBenchData) -> None:
    assert data.negatives(0) == data.negatives(1) == [f"nothing text {i}" for i in range(3)]
    assert data.negatives(4) == [f"nothing code {i}" for i in range(3)]


def test_a_genre_without_shared_outputs_is_named(tmp_path: Path) -> None:
    frame = train_frame().query("not (concept_id == -1 and concept_genre == 'code')")
    data = opened(tmp_path, **{TRAIN: frame})
    assert len(data.negatives(0)) == 3
    with pytest.raises(InputError, match="no rows without a concept .* of genre 'code'"):
        data.negatives(4)


@pytest.mark.parametrize("concept_id", [-1, 2])
def test_an_unknown_concept_is_named(data: AxBenchData, concept_id: int) -> None:
    for call in (data.concept, data.negatives):
        with pytest.raises(InputError, match=rf"no concept {concept_id}; it has \[0, 1, 4\]"):
            call(concept_id)


def test_instructions_are_drawn_by_the_concepts_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path)
    (folder / "alpaca_eval.json").write_text(json.dumps(alpaca(805)))
    with caplog.at_level(logging.WARNING):
        data = open_data(str(folder))
    assert not caplog.messages
    for concept_id in data.concept_ids:
        # pandas draws with numpy's old generator.
        drawn = np.random.RandomState(concept_id).choice(805, size=10, replace=False)
        assert data.instructions(concept_id, 10) == [f"Instruction {i}" for i in drawn]
    assert data.instructions(0, 10) != data.instructions(1, 10)
    assert len(set(data.instructions(4, 805))) == 805
    for count in (0, 806):
        with pytest.raises(InputError, match=f"{count} instructions .* there are 805"):
            data.instructions(0, count)


def test_other_instructions_than_alpacaevals_are_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        opened(tmp_path)
    assert "has 30 instructions, not AlpacaEval's 805" in caplog.text


def test_quadruples_by_concept(data: AxBenchData) -> None:
    assert data.contrastive(1) == quadruples_from_frame(contrastive_frame())
    assert data.contrastive(0) is None


def test_texts_for_detection(data: AxBenchData) -> None:
    found = data.detection(1)
    assert found is not None
    assert found.to_dict("list") == {
        "label": ["positive", "positive", "negative", "negative"],
        "instruction": ["Q 0", "Q 1", "Q 0", "Q 1"],
        "response": ["positive 0", "positive 1", "negative 0", "negative 1"],
    }


def test_without_the_optional_files(tmp_path: Path) -> None:
    data = opened(tmp_path)
    assert data.detection(0) is None
    assert data.contrastive(0) is None


def test_quadruples_stand_for_the_training_file(tmp_path: Path) -> None:
    data = opened(tmp_path, **{TRAIN: None, "contrast_train_data": contrastive_frame()})
    assert data.concept_ids == (1,)
    own = data.concept(1)
    assert (own.concept, own.genre) == ("ships", "text")
    assert own.instructions == [f"Do text {i}" for i in range(2)]
    assert own.outputs == [f"ships {i}" for i in range(2)]
    assert data.negatives(1) == [f"plain {i}" for i in range(2)]
    assert data.contrastive(1) == quadruples_from_frame(contrastive_frame())


def test_a_concept_without_texts_for_detection_is_named(tmp_path: Path) -> None:
    data = opened(tmp_path, **{LATENT: latent_frame().query("concept_id != 4")})
    with pytest.raises(InputError, match="detection have none of concept 4"):
        data.detection(4)


BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "column": (TRAIN, {"drop": "concept_genre"}, "no column 'concept_genre'"),
    "latent column": (LATENT, {"drop": "category"}, "no column 'category'"),
    "contrastive column": ("contrastive", {"drop": "concept"}, "no column 'concept'"),
    "empty": (TRAIN, {"output": " \n"}, "row 1, column 'output' is empty"),
    "latent empty": (LATENT, {"input": ""}, "row 1, column 'input' is empty"),
    "contrastive empty": (
        "contrastive",
        {"negative_output": ""},
        "row 1, column 'negative_output' is empty",
    ),
    "missing": (TRAIN, {"input": None}, "row 1, column 'input'.* is not text"),
    "category": (LATENT, {"category": "odd"}, "category 'odd', which is none of positive"),
    "latent id": (LATENT, {"concept_id": 7}, "concept 7, which the training file has not"),
    "contrastive id": ("contrastive", {"concept_id": 7}, "concept 7, which the training file"),
    "other cell": (LATENT, {"output_concept": "trees"}, "0 'trees', but .*'pirates'; are they"),
    "other quadruples": ("contrastive", {"concept": "trees"}, "1 'trees', but .*'ships'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_in_a_file_is_named_at_once(tmp_path: Path, case: str) -> None:
    name, changes, message = BROKEN[case]
    frames = {
        TRAIN: train_frame(),
        LATENT: latent_frame(),
        "contrastive": contrastive_frame(),
    }
    changes = dict(changes)
    frame = frames[name].reset_index(drop=True).drop(columns=changes.pop("drop", []))
    for column, value in changes.items():
        frame.loc[1, column] = value
    with pytest.raises(InputError, match=rf"{name}\.parquet.*{message}"):
        opened(tmp_path, **{**frames, name: frame})


def test_ids_that_are_not_whole_numbers_are_named(tmp_path: Path) -> None:
    frame = train_frame().astype({"concept_id": float})
    with pytest.raises(InputError, match="column 'concept_id' is not of whole numbers"):
        opened(tmp_path, **{TRAIN: frame})


def test_files_without_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.parquet has no rows"):
        opened(tmp_path, **{TRAIN: train_frame().iloc[:0]})
